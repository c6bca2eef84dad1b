"""The Chinese of the figures and of report.html, by their English."""

from __future__ import annotations

FIGURES = {  # labels of figures
    "epoch": "训练轮次", "training loss": "训练损失", "scale": "缩放系数 scale", "code length (bits)": "码长（比特）",
    "recall": "召回率", "precision": "查准率", "N (items retrieved)": "N（返回的条目数）", "precision@N": "查准率@N",
    "image to text": "以图搜文", "text to image": "以文搜图", "quantization error": "量化误差",
    "share of code values (%)": "码值占比（%）", "code value tanh(scale · x)": "码值 tanh(scale · x)",
    "progressive": "渐进式", "original": "原始方法", "progr.": "渐进式", "measured": "实测",
    "{}, {}": "{}，{}", "logarithmic": "对数刻度",
    "if x were normal": "若 x 服从正态分布", "reference: the schedule": "参考值：设定的 scale",
    "reference: (a) the schedule, (b), (c) normal x, (d) fair signs":
        "参考值：(a) 设定的 scale，(b)、(c) 正态分布的 x，(d) 正负各半",
    "linear to {:g}, log above": "{:g} 以下线性，以上对数",
    "axis from {:g}, not 0": "纵轴从 {:g} 起，而非 0", "mean ± s.d., {} seeds": "均值 ± 标准差，{} 个随机种子",
    "{} bits": "{} 比特", "codes of {} bits": "{} 比特的码", "epoch {}, scale {:.2f}": "第 {} 轮，scale {:.2f}",
    "share with |code| > 0.9": "|码值| > 0.9 的占比", "mean of (|code| - 1)²": "(|码值| - 1)² 的均值",
    "mean |mean of a bit|": "每位均值的绝对值", "quantization error in training": "训练中的量化误差",
    "effect": "指标", "change": "变化", "verdict": "结论", "mAP@all, points": "mAP@all（百分点）", "promised": "预期",
    "mAP@50, points": "mAP@50（百分点）", "loss roughness, %": "损失波动（%）", "mAP roughness, pts": "mAP 波动（百分点）",
    "epochs to 95 % mAP": "达到 95 % mAP 的轮次", "time an epoch, s": "每轮用时（秒）", "+2 to +5": "+2 至 +5",
    "smoother": "更平滑", "-5 to -10 %": "-5 至 -10 %", "halved": "减半", "under +1 %": "低于 +1 %",
    "kept": "达到", "below the promise": "低于预期", "not kept": "未达到", "unclear": "不明确",
    "not measurable": "无法测量", "scale {:g}": "缩放 {:g}", "paired, both ways": "配对，两个方向", " (paired)": "（配对）",
    "mean |scale · x|": "|scale · x| 的均值",
}
PAGE = {  # captions of reporting/page.py and sentences of templates/report.html
    "{} against code length, last epoch": "{} 随码长的变化，最后一轮", "{} against the epoch, {}": "{} 随训练轮次的变化，{}",
    "Precision at each recall": "各召回率下的查准率", "Precision of the first N": "前 N 个结果的查准率",
    "Values of the database's codes before the sign": "数据库编码取符号之前的码值分布", "{} in training": "训练中的{}",
    "Loss": "损失", "Scale": "缩放系数", "Mean abs": "平均绝对值", "Saturation": "饱和度",
    "Quantization error": "量化误差", "Bit balance": "比特平衡",
    "Real-valued fusion": "实值融合", "Hash codes": "哈希码",
    "trained %(epochs)s epochs in %(seconds)s s": "训练 %(epochs)s 轮，用时 %(seconds)s 秒",
    "tested from a checkpoint of epoch %(epoch)s": "由第 %(epoch)s 轮的检查点测试",
    "These are images; their texts are %(queries)s queries and %(items)s database items.":
        "以上为图像数；其文本为 %(queries)s 个查询和 %(items)s 个数据库条目。",
    "%(what)s, %(how)s, seed %(seed)s. %(queries)s queries, %(items)s database items, %(pairs)s training pairs.":
        "%(what)s，%(how)s，随机种子 %(seed)s。查询 %(queries)s 条，数据库 %(items)s 条，训练对 %(pairs)s 个。",
    "Contents": "目录", "Mean average precision": "平均精度均值（mAP）",
    "After the last epoch, which is what to report. Relevant means sharing a label; ties in the ranking are averaged "
    "exactly. Unpaired: each side is one modality alone. Paired: each side has seen both modalities of its pair, for "
    "comparison with UCMFH only.":
        "最后一轮之后的结果，应报告的就是它。共有至少一个标签即为相关；排序中的并列按精确期望计算。非配对：两侧各自只用一种模态"
        "编码。配对：两侧都用到了一对中的两种模态，仅供与 UCMFH 比较。",
    "unpaired": "非配对", "paired": "配对", "bits": "比特", "quantization error": "量化误差", "bit balance": "比特平衡",
    "Wider than the screen: scroll sideways.": "表格比屏幕宽，可左右滑动。",
    "Recall of the own partner": "自身配对的召回率",
    "How often a query's own text, or image, is among the first K of all %(queries)s of the query split, whatever "
    "their labels. Unpaired; ties are averaged exactly.":
        "一条查询自己的文本（或图像）出现在查询集全部 %(queries)s 条的前 K 条之中的频率，与标签无关。非配对；并列按精确期望计算。",
    "How often a query's own text, or image, is among the first K of all %(queries)s of the query split, after the "
    "last epoch, which is what to report. Each side is one modality alone; ties are averaged exactly.":
        "最后一轮之后，一条查询自己的文本（或图像）出现在查询集全部 %(queries)s 条的前 K 条之中的频率，应报告的就是它。两侧各自只"
        "用一种模态编码；并列按精确期望计算。",
    "Curves": "曲线",
    "Unpaired and after the last epoch, unless said otherwise. The same numbers are in metrics.json.":
        "除非另有说明，均为非配对、最后一轮之后的结果。同样的数字在 metrics.json 中。",
    "Download": "下载", "Sample retrievals": "检索示例",
    "%(queries)s queries, spread evenly over the query split, and the nearest %(items)s items by d, the Hamming "
    "distance of their %(bits)s-bit codes; items at one distance in the order of their rows.":
        "在查询集中均匀选取的 %(queries)s 条查询，以及按 d（%(bits)s 比特码的汉明距离）最近的 %(items)s 条；距离相同者按行号排列。",
    "%(queries)s queries, spread evenly over the query split, and the nearest %(items)s items by d, 1 - the cosine of "
    "their embeddings; items at one distance in the order of their rows.":
        "在查询集中均匀选取的 %(queries)s 条查询，以及按 d（1 - 向量的余弦）最近的 %(items)s 条；距离相同者按行号排列。",
    "marks a shared label.": "表示共有标签。", "shares a label": "共有标签",
    "Each side is encoded from one modality alone; the other is shown for the reader.":
        "两侧各自只用一种模态编码，另一种模态仅供读者参考。",
    "Pictures are missing, such as %(path)s.": "缺少图片，例如 %(path)s。",
    "query:": "查询：",
    "%(dataset)s has no column named caption, so there is nothing to show of a pair. data/README.md says how to add "
    "one.":
        "%(dataset)s 没有名为 caption 的列，因此没有可显示的内容。data/README.md 说明了如何添加。",
    "Settings and environment": "设置与环境",
}
