import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    files: ["*.js", "tests/*.js"],
    languageOptions: { ecmaVersion: 2024, sourceType: "module", globals: { ...globals.browser, OpenSeadragon: "readonly" } },
    rules: { "no-eval": "error", "no-implied-eval": "error", "no-var": "error", "prefer-const": "error", eqeqeq: "error",
      "no-restricted-properties": ["error",
        { property: "innerHTML", message: "text goes in as text: see dom.js" },
        { property: "outerHTML", message: "text goes in as text: see dom.js" },
        { property: "insertAdjacentHTML", message: "text goes in as text: see dom.js" }] },
  },
];
