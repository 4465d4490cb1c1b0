// A headless Chromium, and the page that it opens.
import { createServer } from "node:http";
import { copyFile, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const wasm = "pkg/matrix_sdk_crypto_wasm_bg.wasm";

const kinds = { html: "text/html", js: "text/javascript", wasm: "application/wasm" };

// browse returns open, which opens the page in a browser of its own, as it were: contexts share nothing. All ends with the test.
export async function browse(t, executablePath) {
    const folder = await mkdtemp(join(tmpdir(), "knock-page-"));
    t.after(() => rm(folder, { recursive: true }));
    await bundle(folder);
    const server = createServer((request, response) => answer(folder, request, response));
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.close());
    // A person would allow the microphone; there is none. Addresses in clear let two pages on one machine find each other.
    const args = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--disable-features=WebRtcHideLocalIpsWithMdns"];
    const browser = await chromium.launch({ executablePath, args });
    t.after(() => browser.close());
    const url = `http://127.0.0.1:${server.address().port}/`;
    return async () => {
        const page = await (await browser.newContext()).newPage();
        page.on("pageerror", (err) => console.log(`an error in a page: ${err.stack}`));
        await visit(page, url);
        return { page, leave: () => page.goto("about:blank"), back: () => visit(page, url) };
    };
}

async function visit(page, url) {
    await page.goto(url);
    await page.waitForFunction(() => "resume" in window);
}

async function bundle(folder) {
    const entry = new URL("page.js", import.meta.url).pathname;
    await build({ entryPoints: [entry], bundle: true, format: "esm", platform: "browser", target: "es2022", outfile: join(folder, "page.js"), logLevel: "error" });
    const library = dirname(createRequire(import.meta.url).resolve("@matrix-org/matrix-sdk-crypto-wasm"));
    await mkdir(join(folder, "pkg"));
    await copyFile(join(library, wasm), join(folder, wasm)); // its code looks for it beside itself
}

async function answer(folder, { url }, response) {
    if (url === "/") {
        response.writeHead(200, { "Content-Type": kinds.html }).end('<!doctype html><meta charset="utf-8"><script type="module" src="page.js"></script>');
    } else if (url === "/page.js" || url === `/${wasm}`) {
        response.writeHead(200, { "Content-Type": kinds[url.split(".").at(-1)] }).end(await readFile(join(folder, url)));
    } else {
        response.writeHead(404).end();
    }
}
