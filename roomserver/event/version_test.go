package event

import (
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
)

// The table must say what gomatrixserverlib's registry says.
func TestVersionsLikeLibrary(t *testing.T) {
	stateRes := map[StateRes]gomatrixserverlib.StateResAlgorithm{
		StateResV1: gomatrixserverlib.StateResV1, StateResV2: gomatrixserverlib.StateResV2,
		StateResV21: gomatrixserverlib.StateResV2_1,
	}
	for _, id := range Versions() {
		v := version(t, id)
		lib, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(id))
		if err != nil {
			t.Fatal(err)
		}
		stringLevels := lib.ParsePowerLevels([]byte(`{"ban":"50"}`), new(gomatrixserverlib.PowerLevelContent)) == nil
		same := map[string]bool{
			"state resolution":    lib.StateResAlgorithm() == stateRes[v.StateRes],
			"id format":           int(lib.EventIDFormat()) == int(v.IDFormat),
			"references":          (lib.EventFormat() == gomatrixserverlib.EventFormatV1) == v.References,
			"strict JSON":         (lib.CheckCanonicalJSON([]byte(`{"a":1.5}`)) != nil) == v.StrictJSON,
			"key validity":        !lib.SignatureValidityCheck(2, 1) == v.EnforceKeyValidity,
			"integer levels":      stringLevels == !v.IntegerPowerLevels,
			"restricted":          (lib.CheckRestrictedJoinsAllowed() == nil) == v.Restricted,
			"knock":               (lib.CheckKnockingAllowed(id, "@a:x", "@a:x", "knock", "leave") == nil) == v.Knock,
			"domainless room ids": lib.DomainlessRoomIDs() == v.DomainlessRoomIDs,
			"privileged creators": lib.PrivilegedCreators() == v.PrivilegedCreators,
		}
		for what, ok := range same {
			if !ok {
				t.Errorf("version %s: %s differs from the library", id, what)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	if got := strings.Join(Versions(), " "); got != "1 2 3 4 5 6 7 8 9 10 11 12" {
		t.Errorf("versions %s", got)
	}
	if _, ok := GetVersion(DefaultVersion); !ok {
		t.Error("the default version is unknown")
	}
	if _, ok := GetVersion("13"); ok {
		t.Error("13 is known")
	}
	for id, want := range map[string]bool{"7": false, "9": false, "10": true, "12": true} {
		if version(t, id).KnockRestricted != want { // the library has it from 7 on, the specification from 10 on
			t.Errorf("version %s: knock_restricted %v", id, !want)
		}
	}
	for id, want := range map[string][3]bool{
		"2": {true, true, false}, "3": {true, false, false}, "5": {true, false, false},
		"6": {false, false, false}, "10": {false, false, false}, "11": {false, false, true},
	} {
		v := version(t, id)
		if got := [3]bool{v.AliasesAuth, v.RedactionAuth, v.RedactsInContent && v.SenderIsCreator}; got != want {
			t.Errorf("version %s: %v", id, got)
		}
	}
}
