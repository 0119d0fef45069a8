"""The chat page in a real browser. Where LLMFT_SCREENSHOTS names a folder, pictures are left there to be looked at."""
import json
import os
import pathlib

import pytest

from browser import browser  # noqa: F401  (a fixture)
from serving import scripted

MARKDOWN = """say # A heading

Some **bold**, *italic*, `code`, ~~struck~~ and a [link](https://example.org/a_b).

1. first
2. second
   - nested
3. third

> quoted

| name | value |
|---|---:|
| a | 1 |

```python
def twice(x):
    return x * 2  # <b>
```

The end of it."""


@pytest.fixture(scope="module")
def server():
    with scripted("--step-seconds", "0.01", "--max-context", "4096") as running:
        yield running


@pytest.fixture
def open_page(server, browser):  # noqa: F811
    """open_page(...) -> a Page whose browser remembers nothing; afterwards it must have asked no other server for anything, and
    have had nothing to complain of."""
    opened = []

    def run(url=server.url, forget=True, **options):
        page = browser.page(url + "/health", **options)
        if forget:
            page.js("localStorage.clear(); sessionStorage.clear()")
        page.go(url + "/")
        page.wait("document.querySelector('#messages').children.length > 0 && !document.body.innerText.includes('Connecting')")
        opened.append((page, url))
        return page

    yield run
    for page, url in opened:
        page.js("0")  # takes in what has been noted until now
        assert all(u.startswith((url, "blob:" + url)) for u in page.requested), page.requested
        assert page.complaints == []
        page.close()


def picture(page, name):
    if folder := os.environ.get("LLMFT_SCREENSHOTS"):
        page.screenshot(pathlib.Path(folder) / f"{name}.png")


def ask(page, text, answers=1):
    before = page.count(".turn")
    page.click("#input")
    page.type(text)
    page.press("Enter")
    page.wait(f"document.querySelectorAll('.turn').length === {before + 1}")
    page.wait("!document.querySelector('.writing') && document.querySelector('#stop').hidden")
    assert page.count(".turn:last-child .answer") == answers
    return page.text(".turn:last-child .answer .content")


def test_typing_and_streaming(open_page):
    page = open_page()
    assert page.js("document.activeElement.id") == "input"
    assert page.js("document.querySelector('#send').disabled")
    page.type("slow 60")
    page.press("Enter")
    lengths = set()
    while len(lengths) < 5:  # it grows while one looks on
        lengths.add(page.js("(document.querySelector('.content')?.innerText || '').length"))
    page.wait("!document.querySelector('.writing')")
    assert page.text(".content") == [" ".join(map(str, range(1, 61)))]
    assert "60 tokens" in page.text(".speed")[0] and "tokens/s" in page.text(".speed")[0]
    assert page.text(".bubble") == ["slow 60"] and page.js("document.querySelector('#input').value") == ""


def test_a_line_break_in_a_question(open_page):
    page = open_page()
    page.type("one")
    page.press("Enter", "Shift")
    page.type("two")
    page.press("Enter")
    page.wait("document.querySelectorAll('.turn').length === 1")
    assert page.text(".bubble") == ["one\ntwo"]


def test_stop(open_page, server):
    page = open_page()
    for by in ("button", "key"):
        page.click("#input")
        page.type("slow 900")
        page.press("Enter")
        page.wait("(document.querySelector('.turn:last-child .content')?.innerText || '').length > 20")
        page.click("#stop") if by == "button" else page.press("Escape")
        page.wait("!document.querySelector('.writing')")
        assert "stopped" in page.text(".turn:last-child .speed")[0]
        server.wait_for(lambda: server.metric("llmft_running") == 0)  # its place is free again
    assert ask(page, "hello")[0] == "adapted heard: hello"


def test_side_by_side(open_page):
    page = open_page()
    assert page.text(".mode") == ["Base", "Fine-tuned", "Side by side"]
    page.click(".mode[data-mode=both]")
    assert ask(page, "good day", answers=2) == ["base heard: good day", "adapted heard: good day"]
    assert page.text(".who") == ["tiny-base", "tiny-tuned"]
    left, right = page.js("[...document.querySelectorAll('.answer')].map(n => [n.getBoundingClientRect().x, n.getBoundingClientRect().y])")
    assert left[0] < right[0] and left[1] == right[1]
    picture(page, "side_by_side_light")
    page.js("document.querySelector('.mode[aria-checked=true]').focus()")
    page.press("ArrowRight")  # around to the first
    assert page.text(".mode[aria-checked=true]") == ["Base"]
    assert ask(page, "again") == ["base heard: again"]


def test_both_write_at_the_same_time(open_page):
    page = open_page()
    page.click(".mode[data-mode=both]")
    page.click("#input")
    page.type("slow 200")
    page.press("Enter")
    page.wait("[...document.querySelectorAll('.writing .content')].filter(n => n.innerText.length > 10).length === 2")
    picture(page, "writing_light")
    page.press("Escape")
    page.wait("!document.querySelector('.writing')")


def test_markdown(open_page):
    page = open_page()
    ask(page, MARKDOWN)
    answer = ".answer .content "
    for selector, text in (("h3", "A heading"), ("strong", "bold"), ("em", "italic"), ("p code", "code"), ("del", "struck"), ("blockquote", "quoted"),
                           ("td.right", "1"), ("pre", "def twice(x):\n    return x * 2  # <b>"), (".code-head span", "python")):
        assert page.text(answer + selector) == [text], selector
    assert page.js("[...document.querySelectorAll('.content a')].map(a => [a.href, a.rel])") == [["https://example.org/a_b", "noopener noreferrer nofollow"]]
    assert page.count(answer + "> ol > li") == 3 and page.text(answer + "li li") == ["nested"]
    page.js("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    page.click(".copy")
    page.wait("window.copied")
    assert page.js("window.copied") == "def twice(x):\n    return x * 2  # <b>"
    assert page.text(".copy") == ["Copied"]
    picture(page, "markdown_light")


INJECTIONS = [
    "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "<svg onload=window.hacked=1>", "</p></div><iframe src=javascript:parent.hacked=1>",
    "[click](javascript:window.hacked=1)", "![x](javascript:window.hacked=1)", "[x](JaVaScRiPt:window.hacked=1)", "[x](data:text/html,<script>alert(1)</script>)",
    "<javascript:window.hacked=1>", "[x](https://e.org/\"onmouseover=\"window.hacked=1)", "`<script>window.hacked=1</script>`",
    "```html\"><script>window.hacked=1</script>\n</code></pre><script>window.hacked=1</script>\n```", "# <img src=x onerror=window.hacked=1>",
    "| <script>window.hacked=1</script> | b |\n|---|---|\n| <img src=x onerror=window.hacked=1> | c |", "> <style>*{display:none}</style>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;", "![pic](http://tracker.example/pixel.png)", "<a href='javascript:window.hacked=1'>x</a>", "${window.hacked=1}",
]


def test_what_a_model_writes_never_runs(open_page):
    page = open_page()
    for text in INJECTIONS:
        ask(page, "say " + text)
    ask(page, "say " + "\n\n".join(INJECTIONS))
    for i in range(page.count(".content a")):
        page.js(f"document.querySelectorAll('.content a')[{i}].dispatchEvent(new MouseEvent('mouseover'))")
    assert page.js("window.hacked") is None
    assert page.count("#messages script, #messages img, #messages svg, #messages iframe, #messages style, #messages [onerror], #messages [onload]") == 0
    assert set(page.js("[...document.querySelectorAll('.content a')].map(a => new URL(a.href).protocol)")) <= {"https:", "http:"}
    shown = page.text(".content")[0]
    assert shown == "<script>window.hacked = 1</script>"
    # the title and the list take a question's text
    assert "<script>" in page.text("#conversations .open")[0]


def test_hostile_markdown_is_fast(open_page):
    page = open_page()
    for text in ("*" * 20000, "`" * 9999 + "a" + "`" * 9998, "**a" * 5000, "[" * 20000, "_a" * 9000, "> " * 3000 + "x", "- " * 3000 + "x", "|" * 5000 + "\n|-|\n",
                 "~~~" + "a\n" * 5000, "![" * 9000, "1. " * 2000, "<http://" * 2000):
        time_it = f"import('./markdown.js').then(m => {{ const t = performance.now(); m.render({json.dumps(text)}); return performance.now() - t }})"
        took = page.js(time_it)
        for _ in range(3):  # what is slow by itself is slow every time; a busy machine is not
            took = took if took < 1500 else min(took, page.js(time_it))
        assert took < 1500, (text[:20], took)


def test_edit_and_regenerate(open_page):
    page = open_page()
    ask(page, "first")
    ask(page, "second")
    page.click(".turn:last-child .answer .action", 1)  # Regenerate
    page.wait("!document.querySelector('.writing')")
    assert page.text(".content") == ["adapted heard: first", "adapted heard: second"]
    page.click(".question .action", 0)  # Edit the first: the second goes
    page.wait("document.activeElement.tagName === 'TEXTAREA' && document.activeElement.id !== 'input'")
    page.press("Escape")
    assert page.text(".bubble") == ["first", "second"]
    page.click("#input")
    page.press("ArrowUp")  # edit the last
    page.wait("document.activeElement.id !== 'input'")
    page.type(" and more")
    page.press("Enter")
    page.wait("document.querySelectorAll('.content')[1]?.innerText === 'adapted heard: second and more'")


def test_conversations_are_kept_in_the_browser(open_page):
    page = open_page()
    ask(page, "about cats")
    page.press("o", "Ctrl", "Shift")
    page.wait("document.querySelectorAll('.turn').length === 0")
    ask(page, "about dogs")
    assert page.text("#conversations .open") == ["about dogs", "about cats"]
    page.go(page.js("location.href"))
    page.wait("document.querySelectorAll('.turn').length === 1")
    assert page.text(".content") == ["adapted heard: about dogs"]
    page.click("#conversations .open", 1)
    page.wait("document.querySelector('.content').innerText === 'adapted heard: about cats'")
    picture(page, "conversations_light")
    page.click("#conversations li.current .remove")
    page.wait("document.querySelectorAll('#conversations li').length === 1")
    assert page.complaints.pop() == "dialog: Delete this conversation?"


def test_two_tabs_keep_each_others_conversations(open_page):
    first = open_page()
    second = open_page(forget=False)
    ask(first, "in the first tab")
    ask(second, "in the second tab")
    for page in (first, second):
        page.wait("document.querySelectorAll('#conversations li').length === 2")
        assert page.text("#conversations .open") == ["in the second tab", "in the first tab"]
    assert first.text(".bubble") == ["in the first tab"]  # what one looks at stays
    first.click("#conversations .open", 0)
    ask(second, "one more")
    first.wait("document.querySelectorAll('.turn').length === 2")  # told of what the other tab added
    first.go(first.js("location.href"))
    first.wait("document.querySelectorAll('.turn').length === 2")
    assert first.text("#conversations .open") == ["in the second tab", "in the first tab"]
    second.click("#conversations li.current .remove")
    assert second.complaints.pop() == "dialog: Delete this conversation?"
    first.wait("document.querySelectorAll('#conversations li').length === 1")
    assert first.text(".bubble") == ["in the first tab"]


def test_no_more_room_is_told(open_page):
    page = open_page()
    page.js("for (let n = 1 << 22; n; n >>= 1) try { localStorage.setItem('full' + n, 'x'.repeat(n)) } catch {}")
    ask(page, "is there room")
    assert "no more room" in page.text("#notice")[0]


def test_no_turn_goes_unasked(open_page):
    page = open_page()
    for text in ("first", "second", "third"):
        ask(page, text)
    kept = page.text(".bubble") + page.text(".content")
    page.js("window.confirm = (text) => { window.asked = text; return false }")
    page.click(".turn:first-child .answer .action", 1)  # Regenerate
    assert "2 questions" in page.js("window.asked")
    page.click(".turn:nth-child(2) .question .action")  # Edit
    page.type(" changed")
    page.press("Enter")
    assert "The question after" in page.js("window.asked")
    page.press("Escape")
    assert page.text(".bubble") + page.text(".content") == kept
    page.js("window.confirm = () => true")
    page.click(".turn:nth-child(2) .answer .action", 1)
    page.wait("document.querySelectorAll('.turn').length === 2 && !document.querySelector('.writing')")


def test_what_is_stopped_at_once_leaves_the_old_answer(open_page):
    page = open_page()
    ask(page, "first")
    ask(page, "second")
    kept = page.text(".bubble") + page.text(".content")
    page.js("window.confirm = () => true; const f = fetch; window.fetch = (u, o) => new Promise((_, no) => o.signal.addEventListener('abort', () => no(o.signal.reason)))")
    page.click(".turn:first-child .answer .action", 1)  # Regenerate
    page.wait("document.querySelectorAll('.turn').length === 1")
    page.press("Escape")
    page.wait("document.querySelectorAll('.turn').length === 2")
    assert page.text(".bubble") + page.text(".content") == kept
    page.click(".turn:last-child .question .action")  # Edit
    page.type(" and more")
    page.press("Enter")
    page.wait("!document.querySelector('#stop').hidden")
    page.press("Escape")
    page.wait("document.querySelector('#stop').hidden")
    assert page.text(".bubble") + page.text(".content") == kept
    assert page.js("document.querySelector('#input').value") == "second and more"
    page.js("document.querySelector('#input').value = ''; document.querySelector('#input').dispatchEvent(new Event('input'))")
    page.go(page.js("location.href"))
    page.wait("document.querySelectorAll('.turn').length === 2")
    assert page.text(".bubble") + page.text(".content") == kept


def test_a_reload_while_it_writes(open_page):
    page = open_page()
    page.type("slow 900")
    page.press("Enter")
    page.wait("(document.querySelector('.content')?.innerText || '').length > 20")
    page.click("#input")
    page.type("a draft")
    page.go(page.js("location.href"))
    page.wait("document.querySelectorAll('.turn').length === 1")
    assert "stopped" in page.text(".speed")[0] and page.text(".content")[0].startswith("1 2 3")
    assert page.count(".error:not([hidden])") == 0
    assert page.js("document.querySelector('#input').value") == "a draft"


def test_the_focus_is_never_lost(open_page):
    page = open_page()
    focused = "(document.activeElement.dataset.key || document.activeElement.id || document.activeElement.innerText)"
    ask(page, "first")
    page.press("o", "Ctrl", "Shift")
    page.click("#input")
    page.type("second")
    page.js("document.querySelector('#send').focus()")
    page.press("Enter")
    page.wait("document.querySelectorAll('.turn').length === 1 && !document.querySelector('.writing')")
    assert page.js(focused) == "input"
    page.js("document.querySelectorAll('.answer .action')[1].focus()")  # Regenerate
    page.press("Enter")
    page.wait("!document.querySelector('.writing') && document.querySelector('#stop').hidden")
    assert page.js(focused) == "input"
    page.js("document.querySelector('.question .action').focus()")
    page.press("Enter")
    page.wait("document.querySelector('.editing')")
    page.press("Escape")
    assert page.js(focused) == "Edit"
    page.js("document.querySelector('.mode[data-mode=base]').focus()")
    page.press("Enter")
    assert page.js(focused) == "base" and page.text(".mode[aria-checked=true]") == ["Base"]
    page.click("#input")
    page.type("slow 40")
    page.press("Enter")
    page.js("document.querySelectorAll('#conversations .open')[1].focus()")
    at = page.js(focused)
    page.wait("!document.querySelector('.writing') && document.querySelector('#stop').hidden")
    assert at.startswith("open ") and page.js(focused) == at
    page.click("#conversations .remove", 1)
    page.wait("document.querySelectorAll('#conversations li').length === 1")
    assert page.js(focused).startswith("open ")
    assert page.complaints.pop() == "dialog: Delete this conversation?"


def test_an_answer_longer_than_what_is_left(open_page):
    page = open_page()
    page.js("(n => { n.value = '4096'; n.dispatchEvent(new Event('input')) })(document.querySelector('#set-max_tokens'))")
    assert ask(page, "hello") == ["adapted heard: hello"]
    page.complaints[:] = [c for c in page.complaints if "400" not in c]


def test_a_wrong_key_is_told(open_page):
    with scripted("--api-key", "secret") as locked:
        page = open_page(locked.url)
        for wrong in ("guess", "schlüssel", "鍵"):
            page.wait("document.activeElement.id === 'set-key'")
            page.js("document.activeElement.select()")
            page.type(wrong)
            page.press("Enter")
            page.wait("document.querySelector('#messages').innerText.includes('The API key is wrong')")
        page.type("secret")  # over the wrong one
        page.press("Enter")
        page.wait("document.querySelectorAll('.mode').length === 3")
        page.complaints[:] = [c for c in page.complaints if "401" not in c]


def test_right_to_left_and_formulas(open_page):
    page = open_page()
    assert ask(page, "say שלום עולם") == ["שלום עולם"]
    assert page.js("['.bubble', '.content'].map(s => getComputedStyle(document.querySelector(s)).direction)") == ["ltr", "rtl"]
    assert ask(page, r"say \(y_1*2*\) is \[x\] and \*plain\*") == [r"\(y_1*2*\) is \[x\] and *plain*"]
    assert page.count("h1") == 1


def test_what_an_earlier_page_kept(open_page, server):
    page = open_page()
    old = [{"id": "x", "title": "old one", "time": 1, "turns": [{"question": "old one", "answers": {"tiny-tuned": {"text": "kept", "finish": "stop"}}}]}]
    page.js(f"localStorage.setItem('llmft.conversations', JSON.stringify({json.dumps(old)}))")
    page.go(server.url + "/")
    page.wait("document.querySelectorAll('#conversations li').length === 2")
    page.click("#conversations .open", 1)
    page.wait("document.querySelector('.content')?.innerText === 'kept'")


def test_stop_on_a_phone_brings_up_no_keyboard(open_page):
    phone = open_page(width=390, height=844, phone=True)
    phone.click("#input")
    phone.type("slow 900")
    phone.click("#send")
    phone.wait("(document.querySelector('.content')?.innerText || '').length > 20")
    phone.click("#stop")
    phone.wait("!document.querySelector('.writing') && document.querySelector('#stop').hidden")
    assert phone.js("document.activeElement.id") == "scroll"


def test_settings_reach_the_server(open_page):
    page = open_page()
    page.press(",", "Ctrl")
    page.wait("!document.querySelector('#settings').hidden && document.activeElement.id === 'set-system'")
    page.type("Be brief.")
    page.js("window.sent = []; const f = fetch; window.fetch = (u, o) => { if (o?.body) sent.push(JSON.parse(o.body)); return f(u, o) }")
    for name, value in (("temperature", "0.3"), ("top_k", "5"), ("max_tokens", "4"), ("seed", "11"), ("stop", "END")):
        page.js(f"(n => {{ n.value = '{value}'; n.dispatchEvent(new Event('input')) }})(document.querySelector('#set-{name}'))")
    picture(page, "settings_light")
    page.press("Escape")
    page.wait("document.querySelector('#settings').hidden")
    assert ask(page, "slow 9") == ["1 2 3 4"]
    assert "cut at the longest" in page.text(".speed")[0]
    sent = page.js("window.sent[0]")
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "slow 9"}]
    assert (sent["temperature"], sent["top_k"], sent["seed"], sent["stop"], sent["model"]) == (0.3, 5, 11, ["END"], "tiny-tuned")
    page.click("#input")
    page.type("slow 2")
    page.press("Enter")
    page.wait("window.sent.length === 2")
    assert [m["role"] for m in page.js("window.sent[1].messages")] == ["system", "user", "assistant", "user"]
    page.go(page.js("location.href"))
    assert page.js("document.querySelector('#set-system').value") == "Be brief."


def test_by_keyboard_alone(open_page):
    page = open_page()
    seen = []
    for _ in range(25):
        page.press("Tab")
        seen.append(page.js("document.activeElement.id || document.activeElement.className || document.activeElement.tagName"))
        assert page.js("document.activeElement === document.body || document.activeElement.matches(':focus-visible')")
    for needed in ("new-chat", "mode", "theme", "open-settings", "action", "input"):
        assert needed in seen, seen
    unnamed = page.js("[...document.querySelectorAll('button, input, textarea')].filter(n => !(n.innerText || n.getAttribute('aria-label') || n.labels?.length)).length")
    assert unnamed == 0


def test_errors_are_told(open_page, server):
    page = open_page()
    page.click("#input")
    page.type("long " * 5000)
    page.press("Enter")
    page.wait("document.querySelector('.error:not([hidden])')")
    assert "context" in page.text(".error")[0]
    picture(page, "error_light")
    page.complaints[:] = [c for c in page.complaints if "400" not in c]  # the browser notes the answer's status
    with scripted("--api-key", "secret") as locked:
        asked = open_page(locked.url)
        asked.wait("document.activeElement.id === 'set-key'")
        assert "API key" in asked.text("#messages")[0]
        asked.type("secret")
        asked.press("Enter")
        asked.wait("document.querySelectorAll('.mode').length === 3")
        asked.press("Escape")
        assert ask(asked, "let me in") == ["adapted heard: let me in"]
        asked.complaints[:] = [c for c in asked.complaints if "401" not in c]
        locked.stop(15)
        asked.click("#input")
        asked.type("anyone there?")
        asked.press("Enter")
        asked.wait("document.querySelector('.turn:last-child .error:not([hidden])')")
        assert "cannot be reached" in asked.text(".turn:last-child .error")[0]
        asked.complaints[:] = [c for c in asked.complaints if "ERR_CONNECTION_REFUSED" not in c]


def test_dark_light_and_phone(open_page):
    def brightness(page):
        return sum(page.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))

    page = open_page(dark=True)
    assert brightness(page) < 150
    page.click(".mode[data-mode=both]")
    ask(page, MARKDOWN, answers=2)
    picture(page, "both_dark")
    page.click("#theme")
    assert brightness(page) > 700
    page.go(page.js("location.href"))
    assert brightness(page) > 700
    page.js("localStorage.clear()")

    narrow = open_page(width=360, height=740, phone=True, dark=True)
    assert narrow.js("Math.max(document.documentElement.scrollWidth, document.querySelector('header').scrollWidth)") <= 360
    picture(narrow, "narrow_dark")
    phone = open_page(width=390, height=844, phone=True)
    picture(phone, "phone_welcome")
    phone.click(".mode[data-mode=both]")
    ask(phone, MARKDOWN, answers=2)
    left, right = phone.js("[...document.querySelectorAll('.answer')].map(n => n.getBoundingClientRect().y)")
    assert left < right  # one below the other
    assert phone.js("document.documentElement.scrollWidth") <= 390
    picture(phone, "phone_light")
    phone.click("#open-sidebar")
    phone.wait("document.querySelector('#sidebar').getBoundingClientRect().x === 0")
    picture(phone, "phone_sidebar")
    phone.press("Escape")
    phone.click("#open-settings")
    assert phone.js("document.activeElement.id") == "close-settings"  # no keyboard over the page
    picture(phone, "phone_settings")
    phone.click("#close-settings")


WIDE = "say ```cpp\n" + "auto x = f(" + "argument, " * 40 + "last);\n" + "int y = 0;\n" * 60 + "```\n\n| " + "column | " * 20 + "\n|" + "---|" * 20


def test_wide_code_on_a_phone_while_it_is_written(open_page):
    phone = open_page(width=390, height=844, phone=True, dark=True)
    phone.click("#input")
    phone.type(WIDE)
    phone.press("Enter")
    phone.wait("document.querySelector('.writing .code')?.innerText.includes('last);')")
    assert phone.js("getComputedStyle(document.querySelector('.writing .code code'), '::after').content") != "none"  # the cursor
    picture(phone, "phone_writing_code_dark")
    phone.wait("!document.querySelector('.writing')")
    assert phone.js("document.documentElement.scrollWidth") <= 390
    assert phone.js("(n => n.scrollWidth > n.clientWidth)(document.querySelector('.answer pre'))")  # it scrolls by itself
    assert phone.js("document.querySelector('.answer').getBoundingClientRect().right") <= 390
    assert phone.js("(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.querySelector('#scroll'))") < 60  # followed to its end
    picture(phone, "phone_wide_dark")


def test_one_model_only(open_page):
    with scripted("--no-adapter") as alone:
        page = open_page(alone.url)
        assert page.text(".model") == ["tiny-base"] and page.count(".mode") == 0
        assert ask(page, "hi") == ["base heard: hi"]
        assert page.count(".who") == 0
        picture(page, "one_model_light")


def test_headers(server):
    status, headers, text = server.request("/")
    policy = headers["Content-Security-Policy"]
    assert status == 200 and "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    assert "http://" not in text and "https://" not in text and " style=" not in text and "onclick" not in text
