package event

// readRefs reads auth_events and prev_events into one slice.
func (e *Event) readRefs(auth, prev []byte) error {
	const shortest = hashIDLen + len(`"",`)
	e.refs = make([]string, 0, (len(auth)+len(prev))/shortest+1)
	if !e.appendRefs(auth) {
		return badField("auth_events")
	}
	e.auths = len(e.refs)
	if !e.appendRefs(prev) {
		return badField("prev_events")
	}
	return nil
}

// appendRefs reads a list of ids, or of [id, hashes] pairs.
func (e *Event) appendRefs(list []byte) bool {
	if len(list) == 2 {
		return true
	}
	for i := 1; i < len(list); {
		end := skipValue(list, i)
		if end <= i || end >= len(list) {
			return false
		}
		id, ok := e.ref(list[i:end])
		if !ok {
			return false
		}
		e.refs = append(e.refs, id)
		if list[end] != ',' {
			return list[end] == ']' && end == len(list)-1
		}
		i = end + 1
	}
	return false
}

// ref reads one entry. Ids that are hashes must be well formed: they are stored
// as 32 bytes.
func (e *Event) ref(val []byte) (string, bool) {
	if e.v.HashIDs() {
		id, ok := stringValue(val)
		return id, ok && hashEventID(id, e.v.IDFormat)
	}
	if val[0] != '[' || len(val) < 2 {
		return "", false
	}
	end := skipValue(val, 1)
	if end <= 1 || end >= len(val) || val[end] != ',' {
		return "", false
	}
	hashes := skipValue(val, end+1)
	if hashes != len(val)-1 || val[end+1] != '{' {
		return "", false
	}
	id, ok := stringValue(val[1:end])
	return id, ok && sigilForm(id, '$') && len(id) <= maxID
}
