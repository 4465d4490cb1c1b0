package account

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// The profile fields that the specification gives a type.
const (
	FieldDisplayName = "displayname"
	FieldAvatarURL   = "avatar_url"
	FieldTimeZone    = "m.tz"
)

// Sizes of a profile: the first two are the specification's; the others keep m.room.member events sendable.
const (
	maxProfile     = 64 << 10 // of the whole profile as JSON, in bytes
	maxProfileKey  = 255      // bytes
	maxDisplayName = 256      // characters
	maxAvatarURL   = 1000     // bytes
)

// CheckProfileKey validates a field's name (Client-Server API, "Profiles"). Errors: M_KEY_TOO_LARGE,
// M_INVALID_PARAM.
func CheckProfileKey(key string) error {
	if len(key) > maxProfileKey {
		return matrixerr.New(http.StatusBadRequest, "M_KEY_TOO_LARGE", "A profile field's name may have at most 255 bytes")
	}
	outside := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}
	if key == "" || key[0] < 'a' || key[0] > 'z' || strings.IndexFunc(key, outside) >= 0 ||
		(key != FieldDisplayName && key != FieldAvatarURL && !strings.Contains(key, ".")) {
		return matrixerr.InvalidParam("A profile field is displayname, avatar_url, m.tz or a namespaced name such as com.example.field")
	}
	return nil
}

func errProfileTooLarge() error {
	return matrixerr.New(http.StatusBadRequest, "M_PROFILE_TOO_LARGE", "The whole profile must stay under 64 KiB; remove something first")
}

// checkProfileValue validates and compacts a value. remove says that it stands for no value: clients take a display
// name or avatar away by setting it to "".
func checkProfileValue(key string, value json.RawMessage) (compact []byte, remove bool, err error) {
	if len(value) > maxProfile {
		return nil, false, errProfileTooLarge()
	}
	var buf bytes.Buffer
	if err := json.Compact(&buf, value); err != nil || !utf8.Valid(value) {
		return nil, false, matrixerr.BadJSON("The value is not valid JSON")
	}
	if key != FieldDisplayName && key != FieldAvatarURL && key != FieldTimeZone {
		return buf.Bytes(), false, nil
	}
	var s *string
	if json.Unmarshal(value, &s) != nil || s == nil {
		return nil, false, matrixerr.BadJSON(key + " must be a string; use DELETE to remove it")
	}
	if err := checkProfileString(key, *s); err != nil {
		return nil, false, err
	}
	return buf.Bytes(), *s == "", nil
}

func checkProfileString(key, s string) error {
	switch {
	case key == FieldDisplayName && utf8.RuneCountInString(s) > maxDisplayName:
		return matrixerr.InvalidParam("A display name may have at most 256 characters")
	case key == FieldAvatarURL && len(s) > maxAvatarURL:
		return matrixerr.InvalidParam("An avatar URL may have at most 1000 bytes")
	case key == FieldTimeZone && len(s) > maxProfileKey:
		return matrixerr.InvalidParam("m.tz must be the name of a time zone such as Europe/London")
	}
	return nil
}

// Profile is a local user's profile: field → JSON value. A user without one has an empty profile; M_NOT_FOUND for a
// user who does not exist.
func (s *Service) Profile(ctx context.Context, userID string) (map[string]json.RawMessage, error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	there, err := s.exists(ctx, local)
	if err != nil {
		return nil, err
	}
	if !there && s.unknown != nil && s.unknown(ctx, userID) {
		if there, err = s.exists(ctx, local); err != nil {
			return nil, err
		}
	}
	if !there {
		return nil, matrixerr.NotFound("There is no user of this name here")
	}
	var p map[string]json.RawMessage
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		p, err = readProfile(tx, local)
		return err
	})
	return p, err
}

func readProfile(tx *sqldb.Tx, local string) (map[string]json.RawMessage, error) {
	p := map[string]json.RawMessage{}
	_, err := sqldb.Collect(tx, profileAll, func(r *sqldb.Rows) (struct{}, error) {
		var field, value []byte
		err := r.Scan(&field, &value)
		p[string(field)] = value
		return struct{}{}, err
	}, local)
	return p, err
}

// profileSize is the length of the profile as one JSON object.
func profileSize(p map[string]json.RawMessage) int {
	size := len("{}")
	for k, v := range p {
		size += len(k) + len(v) + len(`"":,`)
	}
	return size
}

// SetProfileField stores one field. Errors: M_BAD_JSON, M_INVALID_PARAM, M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE,
// M_NOT_FOUND.
func (s *Service) SetProfileField(ctx context.Context, userID, field string, value json.RawMessage) error {
	if err := CheckProfileKey(field); err != nil {
		return err
	}
	compact, remove, err := checkProfileValue(field, value)
	if err != nil {
		return err
	}
	if remove {
		return s.DeleteProfileField(ctx, userID, field)
	}
	err = s.change(ctx, userID, "account.setProfile", func(tx *sqldb.Tx, local string, r *removal) error {
		p, err := readProfile(tx, local)
		if err != nil {
			return err
		}
		if p[field] = compact; profileSize(p) >= maxProfile {
			return errProfileTooLarge()
		}
		r.profile = userID
		if _, err = tx.Exec(profileUpsert, local, field, compact, r.pos); err != nil {
			return err
		}
		return s.profileChanging(tx, userID, field)
	})
	return s.profileChanged(ctx, err, userID, field, compact)
}

// DeleteProfileField removes one field; one that is not there is no error.
func (s *Service) DeleteProfileField(ctx context.Context, userID, field string) error {
	if err := CheckProfileKey(field); err != nil {
		return err
	}
	err := s.change(ctx, userID, "account.deleteProfile", func(tx *sqldb.Tx, local string, r *removal) error {
		r.profile = userID
		if _, err := tx.Exec(profileDelete, local, field, []byte{}, r.pos); err != nil {
			return err
		}
		return s.profileChanging(tx, userID, field)
	})
	return s.profileChanged(ctx, err, userID, field, nil)
}

func (s *Service) profileChanging(tx *sqldb.Tx, userID, field string) error {
	if s.profiles == nil {
		return nil
	}
	return s.profiles.ProfileChanging(tx, userID, field)
}

// profileChanged passes a committed change on. That the rooms hear of it late is no reason to fail the request.
func (s *Service) profileChanged(ctx context.Context, err error, userID, field string, value json.RawMessage) error {
	if err == nil && s.profiles != nil {
		s.housekeep("profile in rooms", s.profiles.ProfileChanged(context.WithoutCancel(ctx), userID, field, value))
	}
	return err
}
