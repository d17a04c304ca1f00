"""Random schedules for tests: any division of a network's works into groups that fits, in any order of transfers."""

from dataclasses import replace

import numpy as np

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.arrangement import Arranger, PartWithoutRoom
from tpu_deploy.codegen.grouping import Planner, slice_sizes
from tpu_deploy.codegen.measure import Weights
from tpu_deploy.codegen.schedule import Moved, Part, Schedule, Sliced, Tiled
from tpu_deploy.codegen.storages import place
from tpu_deploy.codegen.tile_plan import plan_tiles
from tpu_deploy.codegen.works import Compute
from tpu_deploy.ir.network import Network


def random_schedule(network: Network, seed: int, chip: str = "bm1684x") -> Schedule:
    """A valid schedule of a network that no search would find, the same for the same seed."""
    rng = np.random.default_rng(seed)
    target = chip_named(chip)
    arranger = Arranger(place(network, target), target)
    drawer = _Drawer(arranger, rng)
    schedule = Schedule(drawer.parts(), int(rng.choice([0, 1, 5, 96])), int(rng.choice([0, 1, 3])))
    while True:
        try:
            arranger.arrange(schedule)
        except PartWithoutRoom as problem:
            schedule = drawer.smaller(schedule, problem.part)
        else:
            return schedule


class _Drawer:
    def __init__(self, arranger: Arranger, rng: np.random.Generator) -> None:
        self.forms, self.rng = arranger.forms, rng
        self.planner = Planner(arranger.forms, Weights())
        self.share: dict[int, float] = {}

    def parts(self) -> tuple[Part, ...]:
        found: list[Part] = []
        while (start := found[-1].stop if found else 0) < len(self.forms.works):
            found.append(self.part(start))
        return tuple(found)

    def part(self, start: int) -> Part:
        """A group that begins with a work if the dice say so and one fits, else the work alone."""
        if not isinstance(self.forms.works[start], Compute):
            return Moved(start)
        if self.rng.random() < 0.85:
            for images in self.rng.permutation(slice_sizes(self.forms.batch)):
                stops = [k for k in range(start + 1, len(self.forms.works) + 1) if self.planner.group(start, k, images)]
                if stops:
                    return self.varied(self.planner.group(start, int(self.rng.choice(stops)), int(images)))
        return self.alone(start)

    def varied(self, group: Sliced) -> Sliced:
        """The group with random variants, constants loaded again, and works a slice ahead."""
        rng, count = self.rng, group.stop - group.start
        for offset in rng.permutation(count):
            options = list(self.forms.wholes(group.start + int(offset), group.images))
            variants = list(group.variants)
            variants[offset] = int(rng.choice(options))
            changed = Sliced(group.start, group.stop, group.images, tuple(variants), group.reloaded)
            if rng.random() < 0.3 and self.planner.fits(changed):
                group = changed
        reloaded = {*group.reloaded, *(k for k in range(count) if rng.random() < 0.3)}
        ahead = int(rng.integers(0, min(count, 4) + 1)) if rng.random() < 0.5 else 0
        behind = int(rng.integers(0, count + 1))
        order = tuple(sorted(reloaded))
        return Sliced(group.start, group.stop, group.images, group.variants, order, ahead, behind)

    def alone(self, start: int) -> Tiled:
        share = self.share.setdefault(start, float(self.rng.choice([1.0, 0.5, 0.2])))
        while True:
            try:
                plan = plan_tiles(self.forms.works[start], self.forms.chip, share)
            except Exception:
                share = min(1.0, share * 1.5)
                continue
            return Tiled(start, plan.variant, plan.grid)

    def smaller(self, schedule: Schedule, number: int) -> Schedule:
        """The schedule with a part that had no room in two, or its work in smaller tiles."""
        before, part, after = schedule.parts[:number], schedule.parts[number], schedule.parts[number + 1 :]
        if isinstance(part, Sliced) and part.stop - part.start > 1:
            middle = (part.start + part.stop) // 2
            halves = [self.planner.group(*ends, part.images) for ends in ((part.start, middle), (middle, part.stop))]
            if None not in halves:
                return Schedule(
                    (*schedule.parts[:number], *halves, *schedule.parts[number + 1 :]), schedule.lookahead, 0
                )
        else:
            self.share[part.start] = self.share.get(part.start, 1.0) * 0.7
        alone = [self.alone(k) for k in range(part.start, part.stop)]
        return replace(schedule, parts=(*before, *alone, *after), linger=0)
