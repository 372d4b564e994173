"""Blocks as Markdown, as HTML and on a terminal: the same words in each, and no text that does anything."""

import html
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from bench.cli import terminal
from bench.report.blocks import (
    Bar,
    Beside,
    Block,
    Bullet,
    Bullets,
    Figure,
    Figures,
    Link,
    Paragraph,
    Section,
    Stack,
    Table,
    make_bullets,
    write_markdown,
)
from bench.report.language.text import LANGUAGES
from bench.report.page.markup import write_html

HOSTILE = r'a|b *c* _d_ <script>x</script> [y](z) ![i](j) \ \\ \* `e` ~~f~~ &lt; "g" {{7*7}}'
BLOCKS: list[Block] = [
    Paragraph("No runs yet: bench sweep makes them.", command="bench sweep"),
    Section(
        f"Heading {HOSTILE}",
        [
            Paragraph(HOSTILE, strong=True),
            Bullets([Bullet(HOSTILE, label="Runs: ", detail=HOSTILE), Bullet("plain")]),
            Section("Below", [Table([f"Label {HOSTILE}", "Share"], [[HOSTILE, "5 %"]], left=[0])]),
        ],
    ),
    Beside([Section(f"Folded {HOSTILE}", [Paragraph("inside")], is_folded=True), make_bullets(["beside"])]),
]


class Words(HTMLParser):
    """The texts of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said, self.tags = list[str](), list[str]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.said += data.split()


def test_all_three_say_the_same_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    markdown = Words(MarkdownIt("commonmark").enable("table").render(write_markdown(BLOCKS)))
    page = Words(write_html(BLOCKS, text=LANGUAGES["en"]))
    monkeypatch.setenv("COLUMNS", "400")
    terminal.print_blocks(BLOCKS)
    screen = re.sub(r"^ *- |─+", "", capsys.readouterr().out, flags=re.MULTILINE).split()
    assert markdown.said == screen
    assert [word for word in markdown.said if word != "Runs:"] == [
        word for word in page.said if word != "Runs"
    ]
    assert " ".join(screen).count(HOSTILE) == 7
    assert {*markdown.tags, *page.tags}.isdisjoint({"script", "img", "a", "del"})


def test_markdown_of_each_block() -> None:
    assert write_markdown(BLOCKS[:1]) == "No runs yet: `bench sweep` makes them.\n"
    figure = Figure("loss", "loss-2", "A | b", "", {}, [], [])
    blocks = [
        Section("One", [Figures([figure, figure]), make_bullets(["x", "y"])]),
        Paragraph("Stop", strong=True),
    ]
    image = "![A \\| b](figures/loss-2.png)\n"
    assert write_markdown(blocks) == f"## One\n\n{image}\n{image}\n- x\n- y\n\n**Stop**\n"
    assert write_markdown([Table(["r \\ alpha", "8"], [["4", Link("there", "x")]])]).startswith(
        "| r \\ alpha | 8"
    )


def test_a_block_with_nothing_to_say_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    blocks: list[Block] = [Section("Empty", [make_bullets([]), Section("Too", [])]), make_bullets([])]
    terminal.print_blocks(blocks)
    assert write_markdown(blocks) + write_html(blocks, text=LANGUAGES["en"]) + capsys.readouterr().out == ""


def test_the_page_marks_numbers_and_names_what_can_be_scrolled() -> None:
    table = Table(["Method", "Peak", "Note"], [["LoRA", "1.5", Link("log", 'runs/1/"x"')]], left=[0, 2])
    shown = write_html([Section("Memory", [table])], text=LANGUAGES["en"])
    assert re.findall(r"<t[hd]\b[^>]*>", shown) == [
        *('<th scope="col">', '<th scope="col" class="number">', '<th scope="col">'),
        *('<th scope="row">', '<td class="number">', "<td>"),
    ]
    assert 'tabindex="0" aria-label="Memory"' in shown
    assert f'<a href="{html.escape("runs/1/", quote=True)}&#34;x&#34;">log</a>' in shown


def test_a_caption_stands_once_above_figures_that_share_it() -> None:
    one, other = (Figure("loss", name, name, "Lower is better.", {}, ["a"], [["1"]]) for name in ("x", "y"))
    shown = write_html([Figures([one, other])], text=LANGUAGES["zh"])
    assert shown.count("Lower is better.") == 1
    assert shown.count("<summary>数值</summary>") == 2
    assert '<div class="chart" data-lang="zh" data-chart="y"></div>' in shown


def test_a_second_line_and_an_interval_are_one_line_of_markdown_and_drawn_on_the_page() -> None:
    bar = Bar("+2.0 (-1.0 to +5.0)", 2.0, (-1.0, 5.0), ticks=[-2, 0, 2, 4, 6], mark="ring")
    alone = Bar("+6.0", 6.0, None, ticks=[-2, 0, 2, 4, 6], mark="disc")
    rows = [[Stack("LoRA", "r=8"), bar], [Stack("QLoRA", ""), alone]]
    table = Table([Stack("Method", "settings"), "Points"], rows, legend="● a difference", has_cards=True)
    assert write_markdown([table]).splitlines()[2:] == [
        "| LoRA (r=8)        | +2.0 (-1.0 to +5.0) |",
        "| QLoRA             | +6.0                |",
    ]
    shown = write_html([table], text=LANGUAGES["en"])
    assert "LoRA<small>r=8</small>" in shown
    assert "QLoRA</span>" in shown
    assert '<line class="zero" x1="25.00%" x2="25.00%"' in shown
    assert shown.count('class="interval"') == 1
    assert '<line class="interval" x1="12.50%" x2="87.50%"' in shown
    assert re.findall(r'<svg x="([\d.]+%)"', shown) == ["50.00%", "100.00%"]
    assert shown.index("● a difference") < shown.index("<table>")


def test_the_band_of_equality_is_drawn_as_far_as_the_axis_goes() -> None:
    bars = [
        Bar("", 0.5, (0.0, 1.0), ticks=ticks, mark="square", band=1.0) for ticks in ([-2, 0, 2], [0, 0.5, 2])
    ]
    shown = write_html([Table(["Points"], [[bar] for bar in bars])], text=LANGUAGES["en"])
    assert re.findall(r'<rect class="band" x="([\d.]+%)" width="([\d.]+%)"', shown) == [
        ("25.00%", "50.00%"),
        ("0.00%", "50.00%"),
    ]
    assert shown.count('<svg class="bar square"') == 2


def test_a_command_in_a_list_can_be_copied_as_it_is() -> None:
    command = "bench sweep 'sweep.final_seeds=[0,1]' a_b=*"
    item = Bullet(f"LoRA_ | x: {command} and no more", command=command)
    assert write_markdown([Bullets([item])]) == f"- LoRA\\_ \\| x: `{command}` and no more\n"
    shown = write_html([Bullets([item])], text=LANGUAGES["en"])
    assert f"x: <code>{html.escape(command, quote=False).replace(chr(39), '&#39;')}</code> and" in shown


def test_each_cell_of_a_card_has_its_column_s_name() -> None:
    for has_cards in (True, False):
        table = Table(
            [Stack("Peak", "GiB"), f"Note {HOSTILE}"], [["1.5", "x"]], left=[1], has_cards=has_cards
        )
        shown = write_html([table], text=LANGUAGES["en"])
        names = [html.unescape(name) for name in re.findall(r'data-name="([^"]*)"', shown)]
        assert names == (["Peak (GiB)", f"Note {HOSTILE}"] if has_cards else [])


def test_a_file_is_a_link_where_it_lies_beside_the_results() -> None:
    file = Paragraph("See docs/a.md.", command="docs/a.md", link="../../docs/a.md")
    assert write_markdown([file]) == "See [docs/a.md](../../docs/a.md).\n"
    assert write_html([file], text=LANGUAGES["en"]) == '<p>See <a href="../../docs/a.md">docs/a.md</a>.</p>'
