package keys

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"knock/internal/e2ee"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) backupRoutes() []httpx.Route {
	const base = v3 + "/room_keys"
	var rows []httpx.Route
	row := func(method, path string, h httpx.Handler) {
		rows = append(rows, httpx.Route{Method: method, Path: base + path, Handler: h, Auth: httpx.AuthUser,
			MaxBody: maxBackupBody, Spec: "Server-side key backups"})
	}
	row("POST", "/version", a.createBackup)
	row("GET", "/version", a.backup)
	row("GET", "/version/{version}", a.backup)
	row("PUT", "/version/{version}", a.updateBackup)
	row("DELETE", "/version/{version}", a.deleteBackup)
	row("PUT", "/keys", a.putKeys)
	row("GET", "/keys", a.keys)
	row("DELETE", "/keys", a.deleteKeys)
	row("PUT", "/keys/{roomId}", a.putRoomKeys)
	row("GET", "/keys/{roomId}", a.roomKeys)
	row("DELETE", "/keys/{roomId}", a.deleteKeys)
	row("PUT", "/keys/{roomId}/{sessionId}", a.putKey)
	row("GET", "/keys/{roomId}/{sessionId}", a.key)
	row("DELETE", "/keys/{roomId}/{sessionId}", a.deleteKeys)
	return rows
}

type backupRequest struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

func (a *API) createBackup(ctx context.Context, r *httpx.Request) (any, error) {
	var req backupRequest
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	version, err := a.e.CreateBackup(ctx, r.Caller.UserID, req.Algorithm, req.AuthData)
	return map[string]string{"version": version}, err
}

func (a *API) backup(ctx context.Context, r *httpx.Request) (any, error) {
	return a.e.Backup(ctx, r.Caller.UserID, r.Vars["version"])
}

func (a *API) updateBackup(ctx context.Context, r *httpx.Request) (any, error) {
	var req backupRequest
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Version != "" && req.Version != r.Vars["version"] {
		return nil, matrixerr.InvalidParam("The version in the body is not the one in the path")
	}
	return nil, a.e.UpdateBackup(ctx, r.Caller.UserID, r.Vars["version"], req.Algorithm, req.AuthData)
}

func (a *API) deleteBackup(ctx context.Context, r *httpx.Request) (any, error) {
	return nil, a.e.DeleteBackup(ctx, r.Caller.UserID, r.Vars["version"])
}

// version is the query parameter that every request about keys needs.
func version(r *httpx.Request) (string, error) {
	v := r.Query("version")
	if v == "" {
		return "", matrixerr.MissingParam("Query parameter version is missing")
	}
	return v, nil
}

type roomSessions struct {
	Sessions map[string]e2ee.BackupKey `json:"sessions"`
}

func (a *API) putKeys(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Rooms map[string]roomSessions `json:"rooms"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Rooms == nil {
		return nil, matrixerr.MissingParam("rooms is missing")
	}
	keys := e2ee.BackupKeys{}
	for room, sessions := range req.Rooms {
		keys[room] = sessions.Sessions
	}
	return a.store(ctx, r, keys)
}

func (a *API) putRoomKeys(ctx context.Context, r *httpx.Request) (any, error) {
	var req roomSessions
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Sessions == nil {
		return nil, matrixerr.MissingParam("sessions is missing")
	}
	return a.store(ctx, r, e2ee.BackupKeys{r.Vars["roomId"]: req.Sessions})
}

func (a *API) putKey(ctx context.Context, r *httpx.Request) (any, error) {
	var req e2ee.BackupKey
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	return a.store(ctx, r, e2ee.BackupKeys{r.Vars["roomId"]: {r.Vars["sessionId"]: req}})
}

func (a *API) store(ctx context.Context, r *httpx.Request, keys e2ee.BackupKeys) (any, error) {
	v, err := version(r)
	if err != nil {
		return nil, err
	}
	return a.e.PutBackupKeys(ctx, r.Caller.UserID, v, keys)
}

func (a *API) deleteKeys(ctx context.Context, r *httpx.Request) (any, error) {
	v, err := version(r)
	if err != nil {
		return nil, err
	}
	return a.e.DeleteBackupKeys(ctx, r.Caller.UserID, v, r.Vars["roomId"], r.Vars["sessionId"])
}

func (a *API) key(ctx context.Context, r *httpx.Request) (any, error) {
	v, err := version(r)
	if err != nil {
		return nil, err
	}
	return a.e.BackupKey(ctx, r.Caller.UserID, v, r.Vars["roomId"], r.Vars["sessionId"])
}

func (a *API) keys(ctx context.Context, r *httpx.Request) (any, error) {
	return a.stream(ctx, r, `{"rooms":{`, `}}`, "")
}

func (a *API) roomKeys(ctx context.Context, r *httpx.Request) (any, error) {
	return a.stream(ctx, r, `{"sessions":{`, `}}`, r.Vars["roomId"])
}

// stream writes keys as they are read: a backup may be larger than what should be in memory.
func (a *API) stream(ctx context.Context, r *httpx.Request, head, tail, room string) (any, error) {
	v, err := version(r)
	if err != nil {
		return nil, err
	}
	if _, err := a.e.Backup(ctx, r.Caller.UserID, v); err != nil {
		return nil, err
	}
	return httpx.Stream(func(w http.ResponseWriter) error {
		w.Header().Set("Content-Type", "application/json")
		out := &keyWriter{w: bufio.NewWriterSize(w, 32<<10), grouped: room == ""}
		_, _ = out.w.WriteString(head)
		if err := a.e.EachBackupKey(ctx, r.Caller.UserID, v, room, out.add); err != nil {
			return err
		}
		out.endRoom()
		_, _ = out.w.WriteString(tail)
		return out.w.Flush()
	}), nil
}

// keyWriter writes sessions, grouped by room where all rooms are asked for. An error of the connection stays in the
// buffered writer until its Flush.
type keyWriter struct {
	w       *bufio.Writer
	grouped bool
	room    string
	rooms   int
	n       int // sessions of the room
}

func (k *keyWriter) add(key e2ee.BackedUp) error {
	if k.grouped && (k.rooms == 0 || key.Room != k.room) {
		if err := k.beginRoom(key.Room); err != nil {
			return err
		}
	}
	if k.n > 0 {
		_ = k.w.WriteByte(',')
	}
	k.n++
	if err := k.name(key.Session); err != nil {
		return err
	}
	value, err := json.Marshal(key.BackupKey)
	if err != nil {
		return err
	}
	_, err = k.w.Write(value)
	return err
}

func (k *keyWriter) beginRoom(room string) error {
	k.endRoom()
	if k.rooms > 0 {
		_ = k.w.WriteByte(',')
	}
	k.rooms++
	k.room, k.n = room, 0
	if err := k.name(room); err != nil {
		return err
	}
	_, err := k.w.WriteString(`{"sessions":{`)
	return err
}

func (k *keyWriter) endRoom() {
	if k.rooms > 0 {
		_, _ = k.w.WriteString(`}}`)
	}
}

func (k *keyWriter) name(s string) error {
	name, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = k.w.Write(append(name, ':'))
	return err
}

func parseBatch(token string) (int64, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(token, 10, 64)
	if err != nil || n < 0 {
		return 0, matrixerr.InvalidParam("next_batch must be one that this server gave")
	}
	return n, nil
}

func formatBatch(pos int64) string { return strconv.FormatInt(pos, 10) }
