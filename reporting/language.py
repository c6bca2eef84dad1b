"""The language of the figures' labels: English, or Chinese where the machine has a font for it."""

from __future__ import annotations

from matplotlib import font_manager

CHINESE = {
    "epoch": "训练轮次", "training loss": "训练损失", "scale": "缩放系数 scale", "code length (bits)": "码长（比特）",
    "recall": "召回率", "precision": "查准率", "N (items retrieved)": "N（返回的条目数）", "precision@N": "查准率@N",
    "image to text": "以图搜文", "text to image": "以文搜图", "quantization error": "量化误差",
    "share of code values (%)": "码值占比（%）", "code value tanh(scale · x)": "码值 tanh(scale · x)",
    "progressive": "渐进式", "original": "原始方法", "progr.": "渐进式", "measured": "实测", "expected": "预期",
    "expected of normal x": "x 为正态分布时的理论值", "mean ± s.d., {} seeds": "均值 ± 标准差，{} 个随机种子",
    "{} bits": "{} 比特", "codes of {} bits": "{} 比特的码", "epoch {}, scale {:.2f}": "第 {} 轮，scale {:.2f}",
    "share with |code| > 0.9": "|码值| > 0.9 的占比", "mean of (|code| - 1)²": "(|码值| - 1)² 的均值",
    "mean |mean of a bit|": "每位均值的绝对值", "quantization error in training": "训练中的量化误差",
    "effect": "指标", "change": "变化", "verdict": "结论", "mAP@all, points": "mAP@all（百分点）", "promised": "预期",
    "mAP@50, points": "mAP@50（百分点）", "loss roughness, %": "损失波动（%）", "mAP roughness, pts": "mAP 波动（百分点）",
    "epochs to 95 % mAP": "达到 95 % mAP 的轮次", "time an epoch, s": "每轮用时（秒）", "+2 to +5": "+2 至 +5",
    "smoother": "更平滑", "-5 to -10 %": "-5 至 -10 %", "halved": "减半", "under +1 %": "低于 +1 %",
    "kept": "达到", "below the promise": "低于预期", "not kept": "未达到", "unclear": "不明确",
    "not measurable": "无法测量", "scale {:g}": "缩放 {:g}",
}
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei",
             "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
             "Noto Sans CJK JP", "Droid Sans Fallback", "Arial Unicode MS")
font_families = ["DejaVu Sans"]  # of the figures, most wanted first; set_language changes it
_translations: dict[str, str] = {}


def set_language(language: str) -> str | None:
    """Label the figures in ``en`` or ``zh`` from now on.

    Returns:
        None, or a note for the user where no installed font has the Chinese characters; the labels are English then.
    """
    _translations.clear()
    del font_families[1:]
    if language == "en":
        return None
    characters = {character for text in CHINESE.values() for character in text if ord(character) >= 0x2000}
    for name in CJK_FONTS:
        for font in font_manager.fontManager.ttflist:
            if font.name == name and characters <= set(map(chr, font_manager.get_font(font.fname).get_charmap())):
                font_families.append(name)
                _translations.update(CHINESE)
                return None
    return ("note: no font with Chinese characters was found, so the figures are labelled in English; "
            "install one, such as Noto Sans CJK SC, for --lang zh")


def tr(text: str) -> str:
    """A label, given in English, in the language of the figures."""
    return _translations.get(text, text)
