"""Random schedules for tests: any division of a network's works into groups that fits, in any order of transfers."""

from dataclasses import replace

import numpy as np

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.arrangement import Arranger, PartWithoutRoom
from tpu_deploy.codegen.grouping import slice_sizes
from tpu_deploy.codegen.measure import Measure
from tpu_deploy.codegen.schedule import Moved, Part, Schedule, Sliced, Tiled
from tpu_deploy.codegen.storages import place
from tpu_deploy.codegen.tile_plan import plan_tiles
from tpu_deploy.codegen.works import Compute
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network


def random_schedule(network: Network, seed: int, chip: str = "bm1684x") -> Schedule:
    """A valid schedule of a network that no search would find, the same for the same seed."""
    rng = np.random.default_rng(seed)
    target = chip_named(chip)
    arranger = Arranger(place(network, target), target)
    drawer = _Drawer(arranger, rng)
    height = int(rng.choice([0, target.lane_bytes // 2]))
    schedule = Schedule(drawer.parts(), int(rng.choice([0, 1, 5, 96])), int(rng.choice([0, 1, 3])), height)
    while True:
        try:
            arranger.arrange(schedule)
        except PartWithoutRoom as problem:
            schedule = replace(drawer.smaller(schedule, problem.part), height=0)
        else:
            return schedule


class _Drawer:
    def __init__(self, arranger: Arranger, rng: np.random.Generator) -> None:
        self.forms, self.rng = arranger.forms, rng
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
                stripes = int(self.rng.integers(2, 6)) if self.rng.random() < 0.5 else 1
                group = self.group(start, int(images), stripes)
                if group is not None:
                    return self.varied(group)
        return self.alone(start)

    def group(self, start: int, images: int, stripes: int) -> Sliced | None:
        """As many works as the dice say that can run in such slices."""
        measure = Measure(self.forms, start, images, stripes)
        stop = start
        reach = min(start + 1 + int(self.rng.geometric(0.15)), len(self.forms.works))
        while stop < reach and isinstance(self.forms.works[stop], Compute) and measure.add(stop) and measure.fits:
            stop += 1
        return self.planned(start, stop, images, stripes) if stop > start else None

    def planned(self, start: int, stop: int, images: int, stripes: int) -> Sliced:
        """The group of works [start, stop) in their usual variants."""
        measure = Measure(self.forms, start, images, stripes)
        assert all(measure.add(k) for k in range(start, stop))
        variants = tuple(form.number for form in measure.forms)
        return Sliced(start, stop, images, variants, measure.reloaded(), stripes=stripes)

    def varied(self, group: Sliced) -> Sliced:
        """The group with random variants, constants loaded again, and works a slice ahead."""
        rng, count = self.rng, group.stop - group.start
        for offset in rng.permutation(count):
            options = list(self.forms.wholes(group.start + int(offset), group.images, group.stripes))
            variants = list(group.variants)
            variants[offset] = int(rng.choice(options))
            changed = replace(group, variants=tuple(variants))
            if rng.random() < 0.3 and self.runs(changed):
                group = changed
        reloaded = {*group.reloaded, *(k for k in range(count) if rng.random() < 0.3)}
        ahead = int(rng.integers(0, min(count, 4) + 1)) if rng.random() < 0.5 else 0
        return replace(group, reloaded=tuple(sorted(reloaded)), ahead=ahead, behind=int(rng.integers(0, count + 1)))

    def runs(self, group: Sliced) -> bool:
        measure = Measure(self.forms, group.start, group.images, group.stripes)
        return all(measure.add(group.start + k, number) for k, number in enumerate(group.variants)) and measure.fits

    def alone(self, start: int) -> Tiled:
        share = self.share.setdefault(start, float(self.rng.choice([1.0, 0.5, 0.2])))
        while True:
            try:
                plan = plan_tiles(self.forms.works[start], self.forms.chip, share)
            except BadInput:
                share *= 1.5
                continue
            return Tiled(start, plan.variant, plan.grid)

    def smaller(self, schedule: Schedule, number: int) -> Schedule:
        """The schedule with a part that had no room in two, or its work in smaller tiles."""
        before, part, after = schedule.parts[:number], schedule.parts[number], schedule.parts[number + 1 :]
        if isinstance(part, Sliced) and part.stop - part.start > 1:
            middle = (part.start + part.stop) // 2
            ends = ((part.start, middle), (middle, part.stop))
            halves = [self.planned(start, stop, part.images, part.stripes) for start, stop in ends]
            return replace(schedule, parts=(*before, *halves, *after), linger=0)
        self.share[part.start] = self.share.get(part.start, 1.0) * 0.7
        return replace(schedule, parts=(*before, self.alone(part.start), *after), linger=0)
