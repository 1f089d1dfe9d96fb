import assert from "node:assert/strict";
import { test } from "node:test";
import { filterOf } from "../look.js";

test("a slide as scanned needs no filter", () => {
  assert.equal(filterOf({ brightness: 100, contrast: 100, gray: false }), "");
  assert.equal(filterOf({ brightness: 80, contrast: 150, gray: true }), "grayscale(1) brightness(80%) contrast(150%)");
});
