// What runs in a page of a browser: an application that keeps its session, and in IndexedDB the keys of its device.
// browser.test.js calls what is put into the window here.
import * as c from "./sdk.js";

// enter keeps the answer of register or login and goes on with resume.
async function enter(baseUrl, session) {
    localStorage.setItem("session", JSON.stringify({ baseUrl, session }));
    return resume();
}

// resume signs in with the kept session and keys, as after a reload, and returns user and device.
async function resume() {
    const { baseUrl, session } = JSON.parse(localStorage.getItem("session"));
    const client = c.signIn(baseUrl, session, { keys: () => window.recovery });
    client.on("Call.incoming", (call) => (window.call = call));
    await client.initRustCrypto({ cryptoDatabasePrefix: "e2e" });
    window.client = await c.start(client);
    return { user: client.getUserId(), device: client.getDeviceId() };
}

Object.assign(window, { c, enter, resume });
