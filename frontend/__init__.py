"""The page: static files, no build step, and what a server must say when it hands them out.

The folder is served as it is. Nothing here opens a socket or runs at import; a server asks for
`find_asset`, `content_security_policy`, `MEDIA_TYPES` and `SECURITY_HEADERS`.
"""

import base64
import hashlib
import re
from pathlib import Path, PurePosixPath
from types import MappingProxyType

__all__ = [
    "ASSETS",
    "MEDIA_TYPES",
    "SECURITY_HEADERS",
    "cache_control",
    "content_security_policy",
    "find_asset",
]

ASSETS = Path(__file__).resolve().parent

# Said here and not guessed by `mimetypes`: some machines map .js to text/plain in their registry,
# and a browser then refuses every module.
MEDIA_TYPES = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)

SECURITY_HEADERS = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }
)

_PREFIX = "/assets/"
_SERVED_FOLDERS = ("src", "vendor")
_IMPORT_MAP = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)


def content_security_policy() -> str:
    """The value of the `Content-Security-Policy` header that belongs to `index.html`.

    The import map is the one inline script; it is allowed by its hash, computed from the file so
    that the two cannot drift apart. `dompurify` is the only Trusted Types policy: markup can reach
    the document through the sanitizer and in no other way.

    Raises:
        ValueError: `index.html` has no import map.
    """
    # Text mode folds CRLF to LF, as an HTML parser does before the browser hashes the script.
    found = _IMPORT_MAP.search((ASSETS / "index.html").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("frontend/index.html holds no inline import map")
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "font-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",
        )
    )


def find_asset(path: str) -> Path | None:
    """The file behind a URL path: `/` or one under `/assets/`; None where nothing is served.

    Only `index.html`, `icon.svg` and the files of known media types under `src/` and `vendor/` are
    served; Python files, the lock file and anything outside of the folder are not.
    """
    if path in ("/", "/index.html"):
        return ASSETS / "index.html"
    if not path.startswith(_PREFIX):
        return None
    parts = PurePosixPath(path.removeprefix(_PREFIX)).parts
    if not parts or any(part == ".." or "\\" in part or ":" in part for part in parts):
        return None
    if parts[0] not in _SERVED_FOLDERS and parts != ("icon.svg",):
        return None
    asset = ASSETS.joinpath(*parts)
    return asset if asset.suffix in MEDIA_TYPES and asset.is_file() else None


def cache_control(path: str) -> str:
    """The `Cache-Control` for a URL path.

    File names carry no hash, so a browser asks again each time (an ETag makes that cheap); an
    upgrade of the program is then a reload of the page and never a mixture of two versions.
    """
    return "no-store" if path in ("/", "/index.html") else "no-cache"
