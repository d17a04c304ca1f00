"""`tpu_deploy.profile`: where the time of a bmodel goes, ours or the vendor's."""

from __future__ import annotations

import os

from tpu_deploy.codegen.bmodel import Bmodel, read_bmodel
from tpu_deploy.reports import profile as profiles
from tpu_deploy.reports.profile import Profile


def profile(bmodel: str | os.PathLike[str] | Bmodel) -> Profile:
    """The timeline of both engines of a bmodel and what follows from it, found in its commands alone.

    Names of operations and layer groups are not in the file: a `Deployment` has them in its `profile`. Raises BadInput
    for what is no bmodel of a chip whose commands are known, or damaged.
    """
    return profiles.profile(bmodel if isinstance(bmodel, Bmodel) else read_bmodel(bmodel))
