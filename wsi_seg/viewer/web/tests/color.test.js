import assert from "node:assert/strict";
import { test } from "node:test";
import { channels, contrast, lineColor } from "../color.js";

test("contrast is that of WCAG", () => {
  assert.equal(contrast("#000000", "#ffffff"), 21);
  assert.ok(Math.abs(contrast("#767676", "#ffffff") - 4.54) < 0.005); // the known limit of AA on white
});

test("every line stands out from white, and keeps its hue", () => {
  for (let value = 0; value < 0xffffff; value += 4099) {
    const hex = `#${value.toString(16).padStart(6, "0")}`, line = lineColor(hex);
    assert.ok(contrast(line, "#ffffff") >= 3, hex);
    if (contrast(hex, "#ffffff") >= 3) assert.equal(line, hex);
    channels(line).forEach((v, i) => assert.ok(v <= channels(hex)[i]));
  }
});
