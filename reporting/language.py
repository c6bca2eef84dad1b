"""The language of the report and of the figures: English or Chinese, in figures where the machine has a font for it."""

from __future__ import annotations

from matplotlib import font_manager

from reporting.chinese import FIGURES, PAGE

CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei",
             "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
             "Noto Sans CJK JP", "Droid Sans Fallback", "Arial Unicode MS")
font_families = ["DejaVu Sans"]  # of the figures, most wanted first; set_language changes it
_labels: dict[str, str] = {}  # translations in use: of figures
_page: dict[str, str] = {}  # of the page


def set_language(language: str) -> str | None:
    """Write pages and label figures in ``en`` or ``zh`` from now on.

    Returns:
        None, or a note for the user where no installed font has the Chinese characters; figures have English labels
        then, while the page, which the reader's browser has the fonts for, is in Chinese.
    """
    _labels.clear()
    _page.clear()
    del font_families[1:]
    if language == "en":
        return None
    _page.update(FIGURES | PAGE)
    characters = {character for text in FIGURES.values() for character in text if ord(character) >= 0x2000}
    for name in CJK_FONTS:
        for font in font_manager.fontManager.ttflist:
            if font.name == name and characters <= set(map(chr, font_manager.get_font(font.fname).get_charmap())):
                font_families.append(name)
                _labels.update(FIGURES)
                return None
    return ("note: no font with Chinese characters was found, so the figures are labelled in English; "
            "install one, such as Noto Sans CJK SC, for --lang zh")


def tr(text: str) -> str:
    """A label, given in English, in the language of the figures."""
    return _labels.get(text, text)


def page_text(text: str) -> str:
    """A sentence or a word of a page, given in English, in the language of the page."""
    return _page.get(text, text)


def page_language() -> str:
    """The language of the page, as HTML names it."""
    return "zh-CN" if _page else "en"
