package event

import (
	"strings"
)

// keyTree names the keys that gomatrixserverlib reads from an object, and those
// within them. encoding/json takes "Users" for "users"; where the library looks
// for a key, other spellings of it must not be there.
type keyTree map[string]keyTree

// readByLibrary are the event types whose content the library decodes.
var readByLibrary = map[string]keyTree{
	"m.room.create": {
		"m.federate": nil, "creator": nil, "room_version": nil, "type": nil, "additional_creators": nil,
		"predecessor": {"room_id": nil, "event_id": nil},
	},
	"m.room.member": {
		"membership": nil, "displayname": nil, "avatar_url": nil, "reason": nil, "is_direct": nil,
		"join_authorised_via_users_server": nil, "mxid_mapping": nil,
		"third_party_invite": {
			"display_name": nil,
			"signed":       {"mxid": nil, "token": nil, "signatures": nil},
		},
	},
	"m.room.join_rules":         {"join_rule": nil, "allow": {"type": nil, "room_id": nil}},
	"m.room.history_visibility": {"history_visibility": nil},
	"m.room.third_party_invite": {
		"display_name": nil, "key_validity_url": nil, "public_key": nil,
		"public_keys": {"public_key": nil, "key_validity_url": nil},
	},
	"m.room.power_levels": {
		"ban": nil, "invite": nil, "kick": nil, "redact": nil, "users": nil, "users_default": nil,
		"events": nil, "events_default": nil, "state_default": nil, "notifications": nil,
	},
}

// Content returns the content for gomatrixserverlib: that of ContentJSON, except
// that in the types which the library decodes, keys that differ from the ones it
// looks for in nothing but case are gone.
func (e *Event) Content() []byte {
	tree, ok := readByLibrary[e.typ]
	content := e.ContentJSON()
	if !ok || !tree.hasVariant(content) {
		return content
	}
	return tree.append(make([]byte, 0, len(content)), content)
}

// wants tells whether a key may stay, and what is known of its value.
func (t keyTree) wants(key string) (sub keyTree, ok bool) {
	if sub, ok = t[key]; ok {
		return sub, true
	}
	for known := range t {
		if strings.EqualFold(known, key) {
			return nil, false
		}
	}
	return nil, true
}

// hasVariant tells whether append would leave something out.
func (t keyTree) hasVariant(val []byte) bool {
	found := false
	t.each(val, func(f field, obj []byte) {
		sub, ok := t.wants(keyText(obj[f.name:f.nameTo]))
		found = found || !ok || sub != nil && sub.hasVariant(obj[f.val:f.end])
	})
	return found
}

// each visits the members of an object, or of the objects in an array.
func (t keyTree) each(val []byte, visit func(f field, obj []byte)) {
	if len(val) == 0 {
		return
	}
	if val[0] == '[' {
		for _, item := range items(val) {
			if item[0] == '{' {
				t.each(item, visit)
			}
		}
		return
	}
	var buf [16]field
	list, _ := fieldsOf(buf[:0], val)
	for _, f := range list {
		visit(f, val)
	}
}

// append appends val without the other spellings.
func (t keyTree) append(dst, val []byte) []byte {
	switch val[0] {
	case '[':
		dst = append(dst, '[')
		for i, item := range items(val) {
			if i > 0 {
				dst = append(dst, ',')
			}
			if item[0] == '{' {
				dst = t.append(dst, item)
			} else {
				dst = append(dst, item...)
			}
		}
		return append(dst, ']')
	case '{':
		dst = append(dst, '{')
		t.each(val, func(f field, obj []byte) {
			sub, ok := t.wants(keyText(obj[f.name:f.nameTo]))
			if !ok {
				return
			}
			dst = append(dst, obj[f.name-1:f.val]...)
			if sub != nil {
				dst = sub.append(dst, obj[f.val:f.end])
			} else {
				dst = append(dst, obj[f.val:f.end]...)
			}
			dst = append(dst, ',')
		})
		return closeObject(dst)
	}
	return append(dst, val...)
}

// items returns the values in a canonical array.
func items(list []byte) (vals [][]byte) {
	for i := 1; i < len(list)-1; {
		end := skipValue(list, i)
		if end <= i {
			return vals
		}
		vals = append(vals, list[i:end])
		i = end + 1
	}
	return vals
}
