"""The suites, one file each; those of MinAtar share one."""

from ..suite import Suite
from .discrete_toy import SUITE as _discrete_toy
from .four_rooms import SUITE as _four_rooms
from .incentive_game import SUITE as _incentive_game
from .rlhf_minatar import LABELS as _rlhf_labels
from .rlhf_minatar import SUITE as _rlhf_minatar
from .rlhf_minatar import TEACHERS as _rlhf_teachers
from .smoke import SUITE as _smoke
from .stackelberg import SUITE as _stackelberg
from .tax import SUITE as _tax
from .tolls import SUITE as _tolls

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        *(_stackelberg, _four_rooms, _discrete_toy, _incentive_game, _tolls, _tax),
        *(_rlhf_minatar, _rlhf_labels, _rlhf_teachers, _smoke),
    )
}
