"""BLiMP as published: 67 paradigms in 12 phenomena and 4 fields (Warstadt et al. 2020, TACL 8)."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from onnxloc.errors import TaskError
from onnxloc.tasks.model import Item, Task
from onnxloc.tasks.readers import blimp_task

__all__ = ["PARADIGMS", "published_blimp"]

# Each line: the field, the phenomenon, and its paradigms.
_TABLE = """
morphology anaphor_agreement: anaphor_gender_agreement anaphor_number_agreement
syntax argument_structure: animate_subject_passive animate_subject_trans causative drop_argument
  inchoative intransitive passive_1 passive_2 transitive
syntax_semantics binding: principle_A_c_command principle_A_case_1 principle_A_case_2
  principle_A_domain_1 principle_A_domain_2 principle_A_domain_3 principle_A_reconstruction
syntax_semantics control_raising: existential_there_object_raising
  existential_there_subject_raising expletive_it_object_raising tough_vs_raising_1
  tough_vs_raising_2
morphology determiner_noun_agreement: determiner_noun_agreement_1 determiner_noun_agreement_2
  determiner_noun_agreement_irregular_1 determiner_noun_agreement_irregular_2
  determiner_noun_agreement_with_adj_2 determiner_noun_agreement_with_adj_irregular_1
  determiner_noun_agreement_with_adj_irregular_2 determiner_noun_agreement_with_adjective_1
syntax ellipsis: ellipsis_n_bar_1 ellipsis_n_bar_2
syntax filler_gap_dependency: wh_questions_object_gap wh_questions_subject_gap
  wh_questions_subject_gap_long_distance wh_vs_that_no_gap wh_vs_that_no_gap_long_distance
  wh_vs_that_with_gap wh_vs_that_with_gap_long_distance
morphology irregular_forms: irregular_past_participle_adjectives irregular_past_participle_verbs
syntax island_effects: adjunct_island complex_NP_island
  coordinate_structure_constraint_complex_left_branch
  coordinate_structure_constraint_object_extraction left_branch_island_echo_question
  left_branch_island_simple_question sentential_subject_island wh_island
semantics npi_licensing: matrix_question_npi_licensor_present npi_present_1 npi_present_2
  only_npi_licensor_present only_npi_scope sentential_negation_npi_licensor_present
  sentential_negation_npi_scope
semantics quantifiers: existential_there_quantifiers_1 existential_there_quantifiers_2
  superlative_quantifiers_1 superlative_quantifiers_2
morphology subject_verb_agreement: distractor_agreement_relational_noun
  distractor_agreement_relative_clause irregular_plural_subject_verb_agreement_1
  irregular_plural_subject_verb_agreement_2 regular_plural_subject_verb_agreement_1
  regular_plural_subject_verb_agreement_2
"""
_PAIRS = 1000


def _paradigms() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for line in _TABLE.strip().replace("\n  ", " ").splitlines():
        head, _, names = line.partition(":")
        field, term = head.split()
        found |= dict.fromkeys(names.split(), (field, term))
    return found


PARADIGMS = _paradigms()
"""For each of the 67 paradigms its field and its phenomenon, as the paper groups them."""


def published_blimp(path: Path) -> Task:
    """Read the folder of BLiMP's files, and say what of the published set is missing or added.

    Fields and phenomena of the 67 paradigms are those of the paper (the files themselves set two
    paradigms of argument structure apart); other paradigms keep what their file says.

    Raises
    ------
    TaskError
        If there is no such folder, a file is malformed, or none of the 67 paradigms is there.
    """
    if not path.is_dir():
        raise TaskError(f"{path} is no folder; blimp: takes the folder of BLiMP's .jsonl files")
    task = blimp_task(path)
    counts = Counter(item.group for item in task.items)
    missing = [name for name in PARADIGMS if name not in counts]
    extra = [name for name in counts if name not in PARADIGMS]
    if len(missing) == len(PARADIGMS):
        raise TaskError(
            f"{path} has none of BLiMP's 67 paradigms; for other pairs leave out blimp:"
        )
    notes = []
    if missing:
        have = len(PARADIGMS) - len(missing)
        notes.append(f"{have} of BLiMP's 67 paradigms; missing: {', '.join(missing)}")
    if extra:
        notes.append(f"no paradigms of BLiMP: {', '.join(extra)}")
    odd = [f"{name} ({n})" for name, n in counts.items() if name in PARADIGMS and n != _PAIRS]
    if odd:
        notes.append(f"paradigms that have not {_PAIRS} pairs: {', '.join(odd)}")
    items = tuple(_grouped(item) for item in task.items)
    return replace(task, name="blimp", items=items, notes=tuple(notes))


def _grouped(item: Item) -> Item:
    field, term = PARADIGMS.get(item.group, (item.field, item.term))
    return replace(item, field=field, term=term)
