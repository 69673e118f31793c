"""The glossary and the appendix of CONTRIBUTING.md: short enough, and of things that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S))
WORDS = [
    [cell.strip() for cell in row.split("|")[1:-1]] for row in SECTIONS["Glossary"].splitlines() if "| " in row
]
ANSWERS = re.split(r"^\d+\. ", SECTIONS["Appendix: where would I change it?"], flags=re.M)[1:]


def codes(text):
    return re.findall(r"`([^`]+)`", text)


def test_the_glossary_has_at_most_forty_words_each_of_them_once():
    words = [word for word, _, _ in WORDS[1:]]
    assert 20 <= len(words) <= 40
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(("word", "where"), [(word, where) for word, _, where in WORDS[1:] if where])
def test_a_word_of_the_glossary_is_where_it_says(word, where):
    path, *names = codes(where)
    source = (ROOT / path).read_text()
    assert all(re.search(rf"^(class |def )?{name}\b", source, re.M) for name in names), (word, names)


def test_there_are_ten_questions():
    assert len(ANSWERS) == 10


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_names_files_that_exist(answer):
    question, places = answer.split("*", 2)[1:]
    paths = [one for one in codes(places) if "/" in one]
    assert question
    assert paths
    assert all((ROOT / path).is_file() for path in paths)
