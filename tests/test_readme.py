"""The Chinese README's example runs as it is written, and the links of both lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import embedtrain
from embedtrain import fit, query

ROOT = Path(__file__).parents[1]
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
# Du Fu, Li Bai, Wang Wei, Zhang Jiuling; all of the eighth century.
POEMS = (
    ["國破山河在，城春草木深。", "感時花濺淚，恨別鳥驚心。", "烽火連三月，家書抵萬金。", "白頭搔更短，渾欲不勝簪。"],
    ["床前明月光，疑是地上霜。", "舉頭望明月，低頭思故鄉。"],
    ["空山新雨後，天氣晚來秋。", "明月松間照，清泉石上流。", "竹喧歸浣女，蓮動下漁舟。", "隨意春芳歇，王孫自可留。"],
    ["海上生明月，天涯共此時。", "情人怨遙夜，竟夕起相思。", "滅燭憐光滿，披衣覺露滋。", "不堪盈手贈，還寢夢佳期。"],
    ["紅豆生南國，春來發幾枝。", "願君多采擷，此物最相思。"],
)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_chinese_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From raw text through a new tokenizer to neighbours, with the code and the commands of the README."""
    monkeypatch.chdir(tmp_path)
    folder = Path("package/dist/quantangshi")
    folder.mkdir(parents=True)
    poems = [{"author": "", "title": "", "paragraphs": poem} for poem in POEMS * 40]
    (folder / "poet.tang.0.json").write_text(json.dumps(poems, ensure_ascii=False), encoding="utf-8")
    (folder / "authors.tang.json").write_text("[]")

    section = CHINESE[CHINESE.index("npm pack") : CHINESE.index("[chinese-poetry]: ")]
    code = re.search(r"```python\n(.*?)```", section, re.S)
    assert code is not None
    exec(compile(code[1], "README.zh-CN.md", "exec"), {})
    assert (
        Path("poems.txt").read_text(encoding="utf-8").splitlines()[1] == "床前明月光 疑是地上霜 舉頭望明月 低頭思故鄉"
    )

    commands = [shlex.split(line) for line in re.findall(r"^(?:\$ )?python -m embedtrain\.(.*poems.*)$", section, re.M)]
    assert [command[0] for command in commands] == ["fit", "query", "query", "query"]
    assert fit.main(commands[0][1:]) == 0
    words = embedtrain.load("poems").words
    assert words[:2] == ["<pad>", "<unk>"]
    assert {"明月", "相思", "明", "月"} <= set(words)
    capsys.readouterr()
    assert query.main(commands[1][1:]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.fullmatch(r"  [\u3400-\u9fff]+ +-?[01]\.\d{3} +\d+", line) for line in lines), lines
