"""The closed list of families. Adding one is its file and a row here. Loads no TensorFlow."""

from tfgpt.errors import InputError, nearest
from tfgpt.families import gpt1, gpt2, gpt3, gpt_neo, gpt_neox, gpt_oss, gptj
from tfgpt.families.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (gpt1, gpt2, gpt3, gpt_neo, gptj, gpt_neox, gpt_oss)
}


def family(name: str) -> Family:
    """The family of that name; `InputError` names the nearest when there is none."""
    if name not in FAMILIES:
        raise InputError(f"there is no family {name!r}{nearest(name, FAMILIES)}")
    return FAMILIES[name]


def family_of_model_type(model_type) -> Family:
    """The family whose config.json has this `model_type`; `InputError` names the nearest when none has."""
    by_type = {each.model_type: each for each in FAMILIES.values()}
    if not isinstance(model_type, str) or model_type not in by_type:
        raise InputError(f"config.json has model_type {model_type!r}{nearest(str(model_type), by_type)}")
    return by_type[model_type]
