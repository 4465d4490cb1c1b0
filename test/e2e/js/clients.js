// Clients for the tests: matrix-js-sdk as an application uses it, and a way to wait for what its events bring.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

// matrix-js-sdk asks for Node 22 because of this function alone.
Promise.withResolvers ??= () => {
    let resolve, reject;
    const promise = new Promise((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

const sdk = await import("matrix-js-sdk");
export const { ClientEvent, EventStatus, EventTimeline, MatrixEventEvent, NotificationCountType, RoomEvent, RoomMemberEvent, RoomStateEvent, UserEvent } = sdk;

// The SDK tells the console a lot; console.log stays for whoever looks for a mistake here.
for (const level of ["trace", "debug", "info", "warn", "error"]) console[level] = () => {};

const patience = 20_000;
const password = "correct horse battery staple";

// What e2e_test.go hands over: the client URLs of two nodes, a PNG file, and where nodes are stopped and started.
export const platform = given("KNOCK_E2E_PLATFORM");
export const merchant = given("KNOCK_E2E_MERCHANT");
export const picture = readFileSync(given("KNOCK_E2E_PICTURE"));
const controls = given("KNOCK_E2E_CONTROL");

function given(variable) {
    assert.ok(process.env[variable], `${variable} is not set: run go test ./test/e2e`);
    return process.env[variable];
}

// stranger is a client that is not signed in.
export function stranger(baseUrl) {
    return sdk.createClient({ baseUrl });
}

// register makes an account through user-interactive authentication and returns what the server answered.
export function register(baseUrl, username) {
    const matrixClient = stranger(baseUrl);
    const auth = new sdk.InteractiveAuth({
        matrixClient,
        doRequest: (auth) => matrixClient.registerRequest({ username, password, ...(auth && { auth }) }),
        stateUpdated: (stage) => auth.submitAuthDict({ type: stage }),
        requestEmailToken: () => assert.fail("nobody asked for an e-mail address"),
    });
    return auth.attemptAuth();
}

export function login(baseUrl, user, secret = password) {
    const identifier = { type: "m.id.user", user };
    return stranger(baseUrl).loginRequest({ type: "m.login.password", identifier, password: secret, initial_device_display_name: "e2e" });
}

// signIn is a client for the answer of register or login. It does not sync yet. keys returns the key of the secret
// storage, as createRecoveryKeyFromPassphrase makes it.
export function signIn(baseUrl, { user_id: userId, access_token: accessToken, device_id: deviceId }, { keys } = {}) {
    const getSecretStorageKey = async ({ keys: wanted }) => keys && [Object.keys(wanted)[0], keys().privateKey];
    return sdk.createClient({ baseUrl, userId, accessToken, deviceId, timelineSupport: true, cryptoCallbacks: { getSecretStorageKey } });
}

// control has the test that started the nodes "stop" or "start" the "platform" or the "merchant".
export async function control(what, node) {
    const answer = await fetch(`${controls}/${what}/${node}`, { method: "POST" });
    assert.equal(answer.status, 200, await answer.text());
}

const running = [];

// start syncs until everything that the server has is there. The end of the journey stops the client.
export async function start(client, options = {}) {
    running.push(client);
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true, threadSupport: true, ...options });
    await until("the first sync", client, ClientEvent.Sync, () => client.isInitialSyncComplete());
    return client;
}

// startEncrypted is start with cryptography. Its keys are in memory: once stopped, the client is of no use.
export async function startEncrypted(client) {
    await client.initRustCrypto({ useIndexedDB: false });
    return start(client);
}

// read waits until the client can read an encrypted message.
export async function read(client, roomId, eventId, body) {
    const event = await seen(client, roomId, eventId);
    await until(`"${body}", which is ${event.decryptionFailureReason ?? "there"}`, client, MatrixEventEvent.Decrypted, () => event.getContent().body === body);
    assert.ok(event.isEncrypted());
}

// untilTrue asks again and again, for what no event tells of.
export async function untilTrue(what, check) {
    for (const end = Date.now() + patience; !(await check()); await new Promise((resolve) => setTimeout(resolve, 50))) {
        assert.ok(Date.now() < end, `waited in vain for ${what}`);
    }
}

// until waits until check returns something, looking again whenever the client emits the event and after each sync.
export function until(what, client, event, check) {
    const { promise, resolve, reject } = Promise.withResolvers();
    const timer = setTimeout(() => reject(new Error(`${client.getUserId()} has waited in vain for ${what}`)), patience);
    const look = () => {
        try {
            const found = check();
            if (found) resolve(found);
        } catch (err) {
            reject(err);
        }
    };
    const events = new Set([event, ClientEvent.Sync]);
    events.forEach((name) => client.on(name, look));
    look();
    return promise.finally(() => {
        clearTimeout(timer);
        events.forEach((name) => client.off(name, look));
    });
}

// inRoom is the client's room once its user has the given membership.
export function inRoom(client, roomId, membership) {
    const check = () => client.getRoom(roomId)?.getMyMembership() === membership && client.getRoom(roomId);
    return until(`${membership} in ${roomId}`, client, RoomEvent.MyMembership, check);
}

// seen is the event once it stands in the client's timeline.
export function seen(client, roomId, eventId) {
    return until(`event ${eventId}`, client, RoomEvent.Timeline, () => client.getRoom(roomId)?.findEventById(eventId));
}

// state is the content of a state event once accept takes it.
export function state(client, roomId, type, key, accept) {
    return until(`${type} "${key}"`, client, RoomStateEvent.Events, () => {
        const content = stateOf(client, roomId, type, key);
        return content && accept(content) && content;
    });
}

export function stateOf(client, roomId, type, key = "") {
    return client.getRoom(roomId)?.getLiveTimeline().getState(EventTimeline.FORWARDS).getStateEvents(type, key)?.getContent();
}

// say sends a message and waits until the client has it back from its own sync in place of the local echo.
export async function say(client, roomId, body) {
    const { event_id: id } = await client.sendTextMessage(roomId, body);
    await until(`the echo of ${id}`, client, RoomEvent.LocalEchoUpdated, () => client.getRoom(roomId).findEventById(id)?.status === null);
    return id;
}

export function bodies(room) {
    const messages = room.getLiveTimeline().getEvents().filter((event) => event.getType() === "m.room.message");
    return messages.map((event) => event.getContent().body);
}

export function refused(promise, errcode, httpStatus) {
    return assert.rejects(promise, { errcode, httpStatus });
}

// journey runs its steps in order; after one that fails the others are skipped.
export async function journey(t, steps) {
    let broken = false;
    t.after(() => running.forEach((client) => client.stopClient()));
    for (const [name, step] of Object.entries(steps)) {
        const run = async () => {
            broken = true;
            await step();
            broken = false;
        };
        await t.test(name, { skip: broken && "an earlier step failed" }, run);
    }
}
