package account

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"knock/internal/matrixerr"
)

const maxTag = 255 // bytes (Client-Server API, "Room Tagging")

// Tags are the tags of a user on a room: name → what is known of it. A room without any has an empty map.
func (s *Service) Tags(ctx context.Context, userID, room string) (map[string]json.RawMessage, error) {
	content, err := s.AccountData(ctx, userID, room, typeTags)
	if err != nil && onlyUnknown(err) != nil {
		return nil, err
	}
	return parseTags(content), nil
}

func parseTags(content []byte) map[string]json.RawMessage {
	var c struct {
		Tags map[string]json.RawMessage `json:"tags"`
	}
	if json.Unmarshal(content, &c) != nil || c.Tags == nil {
		return map[string]json.RawMessage{}
	}
	return c.Tags
}

// SetTag puts a tag on a room; value is a JSON object such as {"order": 0.5}. Errors: M_INVALID_PARAM, M_TOO_LARGE.
func (s *Service) SetTag(ctx context.Context, userID, room, tag string, value json.RawMessage) error {
	if tag == "" || len(tag) > maxTag {
		return matrixerr.InvalidParam("A tag has 1 to 255 bytes")
	}
	return s.editTags(ctx, userID, room, func(tags map[string]json.RawMessage) { tags[tag] = value })
}

// DeleteTag takes a tag off a room; one that is not there is no error.
func (s *Service) DeleteTag(ctx context.Context, userID, room, tag string) error {
	return s.editTags(ctx, userID, room, func(tags map[string]json.RawMessage) { delete(tags, tag) })
}

// CopyTags gives a room the tags of another that it replaces, unless it has tags.
func (s *Service) CopyTags(ctx context.Context, userID, from, to string) error {
	old, err := s.Tags(ctx, userID, from)
	if err != nil || len(old) == 0 {
		return err
	}
	return s.editTags(ctx, userID, to, func(tags map[string]json.RawMessage) {
		if len(tags) == 0 {
			maps.Copy(tags, old)
		}
	})
}

// CopyDirect adds a room to m.direct wherever the one is that it replaces.
func (s *Service) CopyDirect(ctx context.Context, userID, from, to string) error {
	was, err := s.AccountData(ctx, userID, "", typeDirect)
	if err != nil {
		return onlyUnknown(err)
	}
	if _, changed := addDirect(was, from, to); !changed {
		return nil
	}
	return s.editData(ctx, userID, "", typeDirect, func(was []byte) ([]byte, error) {
		content, _ := addDirect(was, from, to)
		return content, nil
	})
}

// addDirect adds a room to the lists of m.direct that have another one. Content of another shape stays as it is.
func addDirect(was []byte, from, to string) (content []byte, changed bool) {
	var direct map[string]json.RawMessage
	if json.Unmarshal(was, &direct) != nil {
		return was, false
	}
	for person, raw := range direct {
		var rooms []string
		if json.Unmarshal(raw, &rooms) != nil || !slices.Contains(rooms, from) || slices.Contains(rooms, to) {
			continue
		}
		if list, err := json.Marshal(append(rooms, to)); err == nil {
			direct[person], changed = list, true
		}
	}
	if !changed {
		return was, false
	}
	content, err := json.Marshal(direct)
	return content, err == nil
}

// editTags changes the m.tag data of a room.
func (s *Service) editTags(ctx context.Context, userID, room string, edit func(map[string]json.RawMessage)) error {
	const longest = 64 << 10
	return s.editData(ctx, userID, room, typeTags, func(was []byte) ([]byte, error) {
		tags := parseTags(was)
		edit(tags)
		if len(was) == 0 && len(tags) == 0 {
			return nil, nil
		}
		content, err := json.Marshal(map[string]any{"tags": tags})
		if err == nil && len(content) > longest {
			return nil, matrixerr.TooLarge("This room has too many tags; delete some first")
		}
		return content, err
	})
}
