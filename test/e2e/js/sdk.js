// matrix-js-sdk as an application uses it, in Node and in a browser alike, and a way to wait for what its events bring.

// matrix-js-sdk asks for Node 22 because of this function alone.
Promise.withResolvers ??= () => {
    let resolve, reject;
    const promise = new Promise((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

const sdk = await import("matrix-js-sdk");
export const { ClientEvent, EventStatus, EventTimeline, MatrixEventEvent, NotificationCountType, RoomEvent, RoomMemberEvent, RoomStateEvent, UserEvent, createNewMatrixCall } = sdk;
const { SlidingSync } = await import("matrix-js-sdk/lib/sliding-sync.js");
const { VerificationPhase } = await import("matrix-js-sdk/lib/crypto-api/index.js");

// The SDK tells the console a lot; console.log stays for whoever looks for a mistake here.
for (const level of ["trace", "debug", "info", "warn", "error"]) console[level] = () => {};

const patience = 20_000;
const password = "correct horse battery staple";

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
        requestEmailToken: () => Promise.reject(new Error("nobody asked for an e-mail address")),
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

const running = [];

export function stopAll() {
    running.forEach((client) => client.stopClient());
}

// start syncs until everything that the server has is there. The end of the journey stops the client.
export async function start(client, options = {}) {
    running.push(client);
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true, threadSupport: true, ...options });
    await until("the first sync", client, ClientEvent.Sync, () => client.isInitialSyncComplete());
    return client;
}

// startEncrypted is start with cryptography. Its keys are in memory: once stopped, the client is of no use.
export async function startEncrypted(client, options) {
    await client.initRustCrypto({ useIndexedDB: false });
    return start(client, options);
}

// sliding are options of start: sliding sync with one list, of all rooms.
export function sliding(client) {
    const list = { ranges: [[0, 99]], timeline_limit: 20, required_state: [["*", "*"]] };
    return { slidingSync: new SlidingSync(client.baseUrl, new Map([["all", list]]), { timeline_limit: 20 }, client, patience) };
}

// read waits until the client can read an encrypted message.
export async function read(client, roomId, eventId, body) {
    const event = await seen(client, roomId, eventId);
    void client.decryptEventIfNeeded(event); // as what shows it does: the SDK itself decrypts what comes last
    const missing = () => `"${body}"; there is "${event.getContent().body}" (${event.decryptionFailureReason ?? "readable"})`;
    await until(missing, client, MatrixEventEvent.Decrypted, () => event.getContent().body === body);
    if (!event.isEncrypted()) throw new Error(`"${body}" came in clear`);
}

// unreadable are the events that the client could not decrypt, in the room and in its threads: id and why.
export function unreadable(client, roomId) {
    const room = client.getRoom(roomId);
    const events = [...room.getLiveTimeline().getEvents(), ...room.getThreads().flatMap((thread) => thread.events)];
    return events.filter((event) => event.isDecryptionFailure()).map((event) => `${event.getId()}: ${event.decryptionFailureReason}`);
}

// compare is one side of a comparison of emojis. It returns what the person is shown, and what is to be called when both
// were shown the same, which ends when the other side has said so too. It looks again and again, in place of waiting for
// events: the SDK itself holds requests and verifiers weakly, and those that nobody else holds hear of nothing any more.
export async function compare(request) {
    const { phase, verifier } = await (request.initiatedByMe ? begin(request) : follow(request));
    if (phase === VerificationPhase.Cancelled) throw new Error(`the verification was given up: ${request.cancellationCode}`);
    const done = verifier.verify();
    const shown = untilTrue("the emojis", () => request.phase && verifier.getShowSasCallbacks());
    await Promise.race([shown, done]);
    const { sas, confirm } = verifier.getShowSasCallbacks();
    const end = () => untilTrue("the other side's word", () => request.phase === VerificationPhase.Done);
    return { emojis: sas.emoji.map(([, name]) => name).join(", "), confirm: () => Promise.all([confirm(), done, end()]) };
}

async function begin(request) {
    await untilTrue("the other side's readiness", () => request.phase >= VerificationPhase.Ready);
    return { phase: request.phase, verifier: await request.startVerification("m.sas.v1") };
}

async function follow(request) {
    await request.accept();
    await untilTrue("the start of the verification", () => request.phase >= VerificationPhase.Started);
    return { phase: request.phase, verifier: request.verifier };
}

// encryptFile is what a client does before an upload: the bytes to upload, and the "file" of the message.
export async function encryptFile(bytes) {
    const iv = new Uint8Array(16);
    crypto.getRandomValues(iv.subarray(0, 8)); // the other half counts
    const key = await crypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const cipher = await crypto.subtle.encrypt({ name: "AES-CTR", counter: iv, length: 64 }, key, bytes);
    const sha256 = unpadded(await crypto.subtle.digest("SHA-256", cipher));
    return { cipher: new Uint8Array(cipher), file: { v: "v2", key: await crypto.subtle.exportKey("jwk", key), iv: unpadded(iv), hashes: { sha256 } } };
}

// downloadEncrypted fetches and decrypts the "file" of a message.
export async function downloadEncrypted(client, file) {
    const url = client.mxcUrlToHttp(file.url, undefined, undefined, undefined, false, true, true);
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
    const cipher = await answer.arrayBuffer();
    if (unpadded(await crypto.subtle.digest("SHA-256", cipher)) !== file.hashes.sha256) throw new Error(`${file.url} is not what was sent (${answer.status})`);
    const key = await crypto.subtle.importKey("jwk", file.key, "AES-CTR", false, ["decrypt"]);
    const counter = Uint8Array.from(atob(file.iv), (c) => c.charCodeAt(0));
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-CTR", counter, length: 64 }, key, cipher));
}

function unpadded(bytes) {
    return btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/=+$/, "");
}

// untilTrue asks again and again, for what no event tells of.
export async function untilTrue(what, check) {
    for (const end = Date.now() + patience; !(await check()); await new Promise((resolve) => setTimeout(resolve, 50))) {
        if (Date.now() >= end) throw new Error(`waited in vain for ${what}`);
    }
}

// until waits until check returns something, looking again whenever the client emits the event and after each sync. what
// it waits for may be a function, which is asked at the end.
export function until(what, client, event, check) {
    const { promise, resolve, reject } = Promise.withResolvers();
    const timer = setTimeout(() => reject(new Error(`${client.getUserId()} has waited in vain for ${what.call ? what() : what}`)), patience);
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

// say sends a text and waits until the client has it back from its own sync in place of the local echo.
export function say(client, roomId, body) {
    return send(client, roomId, null, { msgtype: "m.text", body });
}

// send is say with a whole content, in a thread if its root is given.
export async function send(client, roomId, thread, content) {
    const { event_id: id } = await client.sendMessage(roomId, thread, content);
    await until(`the echo of ${id}`, client, RoomEvent.LocalEchoUpdated, () => client.getRoom(roomId).findEventById(id)?.status === null);
    return id;
}

// toTheBeginning pages back until there is nothing before.
export async function toTheBeginning(client, room) {
    const before = () => room.getLiveTimeline().getPaginationToken(EventTimeline.BACKWARDS);
    for (let pages = 0; before(); pages++) {
        if (pages === 30) throw new Error("paging does not end");
        await client.scrollback(room, 10);
    }
}

// openThread is what an application does before somebody answers in a thread that nobody has answered in: without it the
// SDK takes the answer for a stranger's when a sync brings it before the server has told its id.
export async function openThread(client, roomId, rootId) {
    const room = client.getRoom(roomId);
    const thread = room.getThread(rootId) ?? room.createThread(rootId, room.findEventById(rootId), [], true);
    await untilTrue("the thread", () => thread.initialEventsFetched);
}

export function bodies(room) {
    const messages = room.getLiveTimeline().getEvents().filter((event) => event.getType() === "m.room.message");
    return messages.map((event) => event.getContent().body);
}

