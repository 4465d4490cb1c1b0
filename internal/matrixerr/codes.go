package matrixerr

import (
	"net/http"
	"time"
)

// Internal is the answer to everything unexpected: the cause goes to the log only.
func Internal(cause error) *Error {
	return New(http.StatusInternalServerError, "M_UNKNOWN", "Internal error").With(cause)
}

// Unknown is M_UNKNOWN with a status and text of the caller's choice.
func Unknown(status int, msg string) *Error { return New(status, "M_UNKNOWN", msg) }

// Forbidden is 403 M_FORBIDDEN.
func Forbidden(msg string) *Error { return New(http.StatusForbidden, "M_FORBIDDEN", msg) }

// NotFound is 404 M_NOT_FOUND.
func NotFound(msg string) *Error { return New(http.StatusNotFound, "M_NOT_FOUND", msg) }

// BadJSON is 400 M_BAD_JSON: valid JSON that misses or mistypes something.
func BadJSON(msg string) *Error { return New(http.StatusBadRequest, "M_BAD_JSON", msg) }

// NotJSON is 400 M_NOT_JSON: not JSON at all.
func NotJSON(msg string) *Error { return New(http.StatusBadRequest, "M_NOT_JSON", msg) }

// MissingParam is 400 M_MISSING_PARAM.
func MissingParam(msg string) *Error { return New(http.StatusBadRequest, "M_MISSING_PARAM", msg) }

// InvalidParam is 400 M_INVALID_PARAM.
func InvalidParam(msg string) *Error { return New(http.StatusBadRequest, "M_INVALID_PARAM", msg) }

// Unrecognized is M_UNRECOGNIZED: 404 for an unknown endpoint, 405 for a wrong method.
func Unrecognized(status int) *Error {
	msg := "Unknown endpoint"
	if status == http.StatusMethodNotAllowed {
		msg = "This endpoint does not take this method"
	}
	return New(status, "M_UNRECOGNIZED", msg)
}

// UnknownToken is 401 M_UNKNOWN_TOKEN. soft tells the client to keep its state and log in again
// (Client-Server API, "Soft logout").
func UnknownToken(msg string, soft bool) *Error {
	e := New(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", msg)
	if soft {
		e.Fields = map[string]any{"soft_logout": true}
	}
	return e
}

// MissingToken is 401 M_MISSING_TOKEN.
func MissingToken() *Error {
	return New(http.StatusUnauthorized, "M_MISSING_TOKEN", "Send an access token in the Authorization header")
}

// Unauthorized is 401 M_UNAUTHORIZED, as federation answers a bad X-Matrix signature.
func Unauthorized(msg string) *Error { return New(http.StatusUnauthorized, "M_UNAUTHORIZED", msg) }

// LimitExceeded is 429 M_LIMIT_EXCEEDED with the time after which to come back.
func LimitExceeded(after time.Duration) *Error {
	e := New(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "Too many requests; wait before you try again")
	e.RetryAfter = max(after, time.Millisecond)
	return e
}

// TooLarge is 413 M_TOO_LARGE.
func TooLarge(msg string) *Error { return New(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", msg) }

// InviteBlocked is 403 M_INVITE_BLOCKED: the user takes no invites, or none of this inviter.
func InviteBlocked() *Error {
	return New(http.StatusForbidden, "M_INVITE_BLOCKED", "This user does not take your invite; they can ask to be invited otherwise")
}

// CannotLeaveServerNoticeRoom is 403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM (Client-Server API, "Server Notices").
func CannotLeaveServerNoticeRoom() *Error {
	return New(http.StatusForbidden, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "Notices of this server cannot be declined; join the room and leave it after reading")
}

// GuestForbidden is 403 M_GUEST_ACCESS_FORBIDDEN.
func GuestForbidden() *Error {
	return New(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "Guests cannot do this; register an account")
}

// UserInUse is 400 M_USER_IN_USE.
func UserInUse() *Error {
	return New(http.StatusBadRequest, "M_USER_IN_USE", "This user name is taken; choose another")
}

// RoomInUse is 400 M_ROOM_IN_USE.
func RoomInUse() *Error {
	return New(http.StatusBadRequest, "M_ROOM_IN_USE", "This room alias is taken; choose another")
}

// InvalidUsername is 400 M_INVALID_USERNAME.
func InvalidUsername(msg string) *Error { return New(http.StatusBadRequest, "M_INVALID_USERNAME", msg) }

// WeakPassword is 400 M_WEAK_PASSWORD.
func WeakPassword(msg string) *Error { return New(http.StatusBadRequest, "M_WEAK_PASSWORD", msg) }

// UserDeactivated is 403 M_USER_DEACTIVATED.
func UserDeactivated() *Error {
	return New(http.StatusForbidden, "M_USER_DEACTIVATED", "This account has been deactivated")
}

// UserLocked is 401 M_USER_LOCKED with soft_logout: clients keep their sessions.
func UserLocked() *Error {
	return New(http.StatusUnauthorized, "M_USER_LOCKED", "This account has been locked; ask the server's administrator").
		WithField("soft_logout", true)
}

// UserExpired is 403 ORG_MATRIX_EXPIRED_ACCOUNT, by which clients know accounts that have to be renewed.
func UserExpired() *Error {
	return New(http.StatusForbidden, "ORG_MATRIX_EXPIRED_ACCOUNT", "This account has ended; open the link in the last e-mail, or ask the server's administrator to renew it")
}

// UserSuspended is 403 M_USER_SUSPENDED.
func UserSuspended() *Error {
	return New(http.StatusForbidden, "M_USER_SUSPENDED", "You cannot do this while your account is suspended; ask the server's administrator")
}

// InvalidRoomState is 400 M_INVALID_ROOM_STATE: createRoom was given state that does not fit together.
func InvalidRoomState(msg string) *Error {
	return New(http.StatusBadRequest, "M_INVALID_ROOM_STATE", msg)
}

// Exclusive is 400 M_EXCLUSIVE: the name belongs to an application service.
func Exclusive(msg string) *Error { return New(http.StatusBadRequest, "M_EXCLUSIVE", msg) }

// UnsupportedRoomVersion is 400 M_UNSUPPORTED_ROOM_VERSION.
func UnsupportedRoomVersion(version string) *Error {
	return New(http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", "This server does not support room version "+version)
}

// IncompatibleRoomVersion is 400 M_INCOMPATIBLE_ROOM_VERSION with the room's version, as make_join answers.
func IncompatibleRoomVersion(version string) *Error {
	e := New(http.StatusBadRequest, "M_INCOMPATIBLE_ROOM_VERSION", "Your server does not support this room's version, "+version)
	e.Fields = map[string]any{"room_version": version}
	return e
}

// UnableToAuthoriseJoin is 400 M_UNABLE_TO_AUTHORISE_JOIN: we cannot see whether a restricted join is allowed.
func UnableToAuthoriseJoin(msg string) *Error {
	return New(http.StatusBadRequest, "M_UNABLE_TO_AUTHORISE_JOIN", msg)
}

// UnableToGrantJoin is 400 M_UNABLE_TO_GRANT_JOIN: allowed, but nobody here may sign for it.
func UnableToGrantJoin(msg string) *Error {
	return New(http.StatusBadRequest, "M_UNABLE_TO_GRANT_JOIN", msg)
}

// NotYetUploaded is 504 M_NOT_YET_UPLOADED for media that was created and has no content yet.
func NotYetUploaded() *Error {
	return New(http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED", "The content has not been uploaded yet; try again")
}

// CannotOverwriteMedia is 409 M_CANNOT_OVERWRITE_MEDIA.
func CannotOverwriteMedia() *Error {
	return New(http.StatusConflict, "M_CANNOT_OVERWRITE_MEDIA", "This media id already has content")
}

// DuplicateAnnotation is 400 M_DUPLICATE_ANNOTATION.
func DuplicateAnnotation() *Error {
	return New(http.StatusBadRequest, "M_DUPLICATE_ANNOTATION", "You have already reacted with this")
}
