from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from embedtrain import query as command
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.spelling import near_spellings

WORDS = ["king", "queen", "man", "woman", "prince", "e-mail", "c++", "red wine", "white, dry", "+", "apple", "日本"]


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    random = np.random.default_rng(2)
    weight = random.normal(size=(len(WORDS) + 2, 5)).astype(np.float32)
    weight[0] = 0
    weight[1] = weight[2:].mean(axis=0)
    counts = np.array([0, 0, *range(len(WORDS), 0, -1)])
    words = ["<pad>", "<unk>", *WORDS]
    return Embeddings(torch.from_numpy(weight), words, counts=counts, pad_index=0, unk_index=1)


@pytest.fixture(scope="module")
def folder(embeddings: Embeddings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query") / "model"
    embeddings.save(folder, export=["npy"])
    return folder


@pytest.fixture(scope="module")
def words(folder: Path) -> command.Words:
    return command.read(folder)


@pytest.mark.parametrize(
    ("query", "plus", "minus"),
    [
        ("king", ["king"], []),
        ("  king ", ["king"], []),
        ("king - man + woman", ["king", "woman"], ["man"]),
        ("- man + king + woman", ["king", "woman"], ["man"]),
        ("e-mail + c++ - red wine", ["e-mail", "c++"], ["red wine"]),
        ("white, dry", ["white, dry"], []),
        ("+", ["+"], []),
        ("日本 + king", ["日本", "king"], []),
        ("- king", [], ["king"]),
    ],
)
def test_nearest_words_are_those_of_the_embeddings(
    words: command.Words, embeddings: Embeddings, query: str, plus: list[str], minus: list[str]
) -> None:
    answer = words.ask(query, 4)
    expected = embeddings.most_similar(plus, minus, topn=4)
    assert [word for word, _ in answer.words] == [word for word, _ in expected]
    assert [cosine for _, cosine in answer.words] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)
    assert answer.counts == [len(WORDS) - WORDS.index(word) for word, _ in expected]


def test_no_more_words_than_there_are(words: command.Words) -> None:
    assert len(words.ask("king", 1000).words) == len(WORDS) - 1
    assert len(words.ask("king - king", 1000).words) == len(WORDS) - 1


def test_odd_one_out_and_similarity_are_gensims(words: command.Words, embeddings: Embeddings) -> None:
    models = pytest.importorskip("gensim.models")
    keyed = models.KeyedVectors(embeddings.dim)
    keyed.add_vectors(WORDS, embeddings.weight[2:].numpy())
    group = ["king", "queen", "apple", "red wine"]
    answer = words.ask(", ".join(group), 10)
    assert [word for word, _ in answer.words] == [word for _, word in keyed.rank_by_centrality(group)][::-1]
    assert answer.words[0][0] == keyed.doesnt_match(group)
    assert "does not belong" in answer.text().splitlines()[0]
    (_, similarity), *_ = words.ask("king ~ queen", 10).words
    assert similarity == pytest.approx(keyed.similarity("king", "queen"), abs=1e-6)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("kin", "'kin' is not in the vocabulary; did you mean 'king'?"),
        ("KING", "did you mean 'king'?"),
        ("xyzzy", "'xyzzy' is not in the vocabulary"),
        ("king man", "'king man' is not in the vocabulary"),
        ("king - man + womn", "did you mean 'woman'"),
        ("king ~ queen ~ man", "between two words"),
        ("king, queen", "three words at least"),
        ("king -", "no word after -"),
        ("king + - man", "no word after +"),
        ("king ~ ", "'king ~' is not in the vocabulary"),
        ("<unk>", "'<unk>' is not in the vocabulary"),
    ],
)
def test_what_cannot_be_answered_is_said(words: command.Words, query: str, message: str) -> None:
    with pytest.raises(EmbedtrainError) as caught:
        words.ask(query, 10)
    assert message in str(caught.value)


def test_command_answers_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(folder), "king", "-", "man", "+", "woman", "--topn", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert command.main([str(folder), "king ~ queen", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "similarity"
    assert command.main([str(folder / "embedding.npy"), "king"]) == 0  # any format
    printed = capsys.readouterr().out
    assert "apple" in printed
    assert "<" not in printed
    assert command.main([str(folder), "kin"]) == 2
    assert capsys.readouterr().err == "embedtrain: 'kin' is not in the vocabulary; did you mean 'king'?\n"
    assert command.main([str(folder), "king", "--topn", "0"]) == 2
    assert "topn must be" in capsys.readouterr().err
    assert command.main([str(folder / "nothing"), "king"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(embeddings: Embeddings, tmp_path: Path, dtype: torch.dtype) -> None:
    half = Embeddings(embeddings.weight.to(dtype), embeddings.words, pad_index=0, unk_index=1)
    half.save(tmp_path / "half")
    answer = command.read(tmp_path / "half").ask("king", 3)
    assert [word for word, _ in answer.words] == [word for word, _ in half.most_similar("king", topn=3)]


def test_a_damaged_folder_is_named(embeddings: Embeddings, tmp_path: Path) -> None:
    embeddings.save(tmp_path / "out")
    weight = tmp_path / "out/embedding.pt"
    weight.write_bytes(weight.read_bytes()[:-100])
    with pytest.raises(EmbedtrainError, match=r"embedding\.pt is broken"):
        command.read(tmp_path / "out")


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedtrain.query", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


def test_answers_lines_of_a_pipe(folder: Path) -> None:
    done = python(str(folder), "--json", input="king\n\nking ~ queen\n")
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == ["nearest", "similarity"]
    done = python(str(folder), input="king\nkin\nqueen\n")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "embedtrain: 'kin' is not in the vocabulary; did you mean 'king'?",
        "embedtrain: 1 of 3 queries could not be answered",
    ]
    assert len(done.stdout.splitlines()) == 20


def test_neither_help_nor_a_query_imports_torch(folder: Path) -> None:
    for arguments in (["--help"], [str(folder), "king"]):
        code = f"import sys\nfrom embedtrain import query\ntry: query.main({arguments})\nexcept SystemExit: pass\n"
        code += "assert 'torch' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "man" in done.stdout


def test_prompt_completes_and_remembers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "embedtrain.query", str(folder)],
        stdin=there,
        stdout=there,
        stderr=there,
        env=environment,
    )
    os.close(there)
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(here, 4096)
        seen = seen.partition(text)[2]

    try:
        wait_for(b"> ")
        os.write(here, b"wom\t ~ man\n")  # Tab completes
        wait_for(b"woman ~ man")
        wait_for(b"> ")
        os.write(here, b"kin\n")
        wait_for(b"did you mean 'king'?")
        wait_for(b"> ")  # before it, the terminal would take Ctrl-D
        os.write(here, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(here)
    assert "woman ~ man" in (tmp_path / "embedtrain/query_history").read_text()


def test_near_spellings_are_quick_and_near() -> None:
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("etaoinshrdlu"), size)) for size in random.integers(2, 12, 100_000)]
    words[50_000:50_000] = ["Colour", "colour"]
    begin = time.process_time()
    assert near_spellings("color", words)[0] == "Colour"
    assert time.process_time() - begin < 1
    assert near_spellings("", words) == []
    assert near_spellings("x" * 300, words) == []
