"""How smooth a page of ``embedtrain.explore`` is, and pictures of it, in headless Chromium.

    python -m embedtrain.explore out --out explore.html
    python benchmarks/page.py explore.html
    python benchmarks/page.py explore.html --picture map.png --address king --theme dark

Each frame of a flight is one change of the view and one drawing of the map, timed until the picture is there: the pixel
that is read back cannot come before. A machine without a GPU draws all of it with the processor.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FRAMES = """async ([name, count]) => {
  const { map, model } = page;
  const fit = map.fitting();
  const frames = {
    "all of the map, moved": (t) => ({ x: 0.05 * Math.sin(6.28 * t), y: 0, scale: fit.scale }),
    "zooming in": (t) => ({ x: map.x[20], y: map.y[20], scale: fit.scale * 20 ** t }),
    "close by, moved": (t) => ({ x: map.x[20] + 0.05 * t, y: map.y[20], scale: fit.scale * 8 }),
  };
  const times = [];
  for (let frame = 0; frame < count; frame++) {
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    map.setView(frames[name](frame / count));
    map.draw();
    map.context.getImageData(0, 0, 1, 1);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b);
}"""
FLIGHTS = ("all of the map, moved", "zooming in", "close by, moved")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--picture", type=Path, help="save a picture of the page instead of measuring")
    parser.add_argument("--address", default="", help="what the page is asked for: a word, or a sum of words")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--size", default="1280x800", help="of the window, in CSS pixels")
    parser.add_argument("--ratio", type=float, default=1.0, help="device pixels in a CSS pixel")
    parser.add_argument("--phone", action="store_true", help="fingers instead of a mouse")
    parser.add_argument("--do", default="", help="JavaScript to run before the picture")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=options.ratio,
            color_scheme=options.theme,
            has_touch=options.phone,
            is_mobile=options.phone,
        )
        page.goto(f"{options.page.resolve().as_uri()}#{options.address}")
        page.wait_for_selector("html[data-ready]", state="attached")
        if options.do:
            page.evaluate(options.do)
        while page.evaluate("page.map.animations.size > 0 || page.map.fading"):
            page.wait_for_timeout(50)
        page.wait_for_timeout(500)
        if options.picture:
            page.screenshot(path=options.picture)
            picture = Image.open(options.picture).convert("RGB")
            # 256 colours look the same here, in a third of the size.
            picture = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            picture.save(options.picture, optimize=True)
        else:
            size = page.evaluate("page.model.size")
            print(f"{size:,} points, {options.size} × {options.ratio:g}, {browser.version}, {platform.machine()}")
            for name in FLIGHTS:
                times = page.evaluate(FRAMES, [name, options.frames])
                middle, most = times[len(times) // 2], times[int(len(times) * 0.95)]
                print(f"{name:24} {middle:6.1f} ms a frame, 95 % within {most:.1f} ms")
        browser.close()


if __name__ == "__main__":
    main()
