"""Texts that try to become markup, to run, to load something, or to fool a reader."""

from __future__ import annotations

PAYLOADS = (
    "<script>window.pwned=1;document.title='pwned'</script>",
    "</pre></details></script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    '"><svg onload=window.pwned=1>',
    "' onmouseover='window.pwned=1' autofocus onfocus='window.pwned=1' tabindex='0",
    "<style>*{display:none}</style>",
    "</style><script>window.pwned=1</script>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    '<a href="javascript:window.pwned=1">x</a>',
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    "<link rel=stylesheet href=https://example.invalid/x.css><base href=https://example.invalid/>",
    "<form action=https://example.invalid/><button>go</button></form>",
    "\u202egnp.exe\u2066\x1b]0;pwned\x07\u2028\u2029\x00",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "<!--", "<![CDATA[", "<plaintext>", "<textarea>",
    '<noscript><p title="</noscript><img src=x onerror=window.pwned=1>">',
)  # fmt: skip
