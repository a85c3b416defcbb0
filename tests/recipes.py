"""The recipe that flags and facts lead to, without a run around them."""

from types import SimpleNamespace

import train
from appearance.training.recipe import Facts, Recipe, choose_recipe


def chosen(
    *flags,
    images: int = 1000,
    identities: int = 50,
    processes: int = 1,
    size: tuple[int, int] = (128, 64),
    fine_tuning: bool = False,
    **measured,
) -> tuple[Recipe, dict[str, str]]:
    """The recipe of a new run and the reasons.

    `size` is that of the starting weights; `measured`: error, precision and seconds, as the machine would say.
    """
    args = train.get_args_parser().parse_args([str(flag) for flag in flags])
    model = args.model or "net"
    facts = Facts(model, images, identities, processes, *size, fine_tuning=fine_tuning)
    measure = SimpleNamespace(
        precision=lambda *_: measured.get("precision", "fp32"),
        equal_error_rate=lambda *_: measured.get("error"),
        seconds=measured.get("seconds"),
    )
    return choose_recipe(args, facts, measure)


def recipe_of(*flags, **facts) -> Recipe:
    return chosen(*flags, **facts)[0]
