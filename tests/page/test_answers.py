"""A model's answer is foreign text: whatever it holds, it is shown and does nothing."""

from tests.page.conftest import OpenPage, Picture, Watch
from tests.page.fake_master import FakeMaster
from tests.page.script import HOSTILE, Script
from tests.page.steps import ask


async def test_a_hostile_answer_is_shown_and_does_nothing(
    fake: FakeMaster, open_page: OpenPage, watch: Watch, picture: Picture
) -> None:
    fake.script = Script(
        answers=[HOSTILE], final=HOSTILE, thinking={"agent_1": HOSTILE}, chunk=5, warnings=[HOSTILE]
    )
    page = await open_page()
    await page.evaluate(
        "window.violations = [];"
        "addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective))"
    )
    await ask(page, HOSTILE)
    await page.get_by_text("Full result.").wait_for()
    final = page.get_by_role("region", name="Final answer")
    text = await final.inner_text()
    assert "Before." in text
    assert "After the style." in text
    assert "The last words <b unclosed" in text
    assert "<script>window.hacked = 1" in text
    assert await page.evaluate("window.hacked") is None
    assert await page.evaluate("violations") == []
    assert watch.dialogs == []
    assert (
        await page.locator(".answer-text :is(script, style, img, svg, iframe, form, input, math)").count()
        == 0
    )
    assert await page.locator(".answer-text [style], .answer-text [onerror], .answer-text [id]").count() == 0
    addresses = await final.locator("a").evaluate_all("(links) => links.map((a) => a.getAttribute('href'))")
    assert all(one is None or one.startswith(("https://", "http://")) for one in addresses)
    assert "http://foreign.invalid/pixel.png" in addresses
    assert await final.get_by_role("link", name="good").get_attribute("rel") == "noopener noreferrer nofollow"
    await picture(page, "hostile-desktop-light")


async def test_a_huge_code_block_is_shown_plain_and_whole(fake: FakeMaster, open_page: OpenPage) -> None:
    lines = 4000
    block = (
        "```python\n" + "\n".join(f"value_{number} = {number}" for number in range(lines)) + "\n```\n\nafter"
    )
    fake.script = Script(answers=["short"], final=block, chunk=900)
    page = await open_page()
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    code = page.locator(".final pre code")
    assert (await code.inner_text()).count("\n") >= lines - 1
    assert await code.locator("span").count() == 0
    assert await page.locator(".final").get_by_text("after", exact=True).is_visible()


async def test_text_that_grows_ends_as_text_read_at_once(open_page: OpenPage) -> None:
    page = await open_page()
    same = await page.evaluate(
        """async (texts) => {
            const { GrowingMarkdown } = await import("/assets/src/markdown.js");
            return texts.map((text) => {
                for (const step of [1, 3, 17]) {
                    const growing = new GrowingMarkdown();
                    for (let end = 1; end <= text.length; end += step)
                        growing.blocks(text.slice(0, end), true);
                    const shown = growing.blocks(text, true).join("");
                    const whole = new GrowingMarkdown().blocks(text, false).join("");
                    const ended = growing.blocks(text, false).join("");
                    if (shown !== whole || ended !== whole) return [shown, ended, whole];
                }
                return true;
            });
        }""",
        [
            "# Title\n\npara\n\n- a\n- b\n\n  more\n\n1. x\n2. y\n\nlast",
            "a | b\n--|--\n1 | 2\n\ntext\n===\n\n> quote\ngoes on\n\nend",
            "```js\nlet a = 1;\n\n```\n\nafter\r\n\r\nwindows\r\nlines",
            HOSTILE,
        ],
    )
    assert same == [True] * 4


async def test_only_the_last_blocks_are_read_again_while_text_comes_in(open_page: OpenPage) -> None:
    page = await open_page()
    kept = await page.evaluate(
        """async () => {
            const { GrowingMarkdown } = await import("/assets/src/markdown.js");
            const growing = new GrowingMarkdown();
            let text = "";
            for (let n = 0; n < 200; n++) {
                text += `Paragraph ${n} with some words.\\n\\n`;
                growing.blocks(text, true);
            }
            return growing.finished.length;
        }"""
    )
    assert kept >= 197
