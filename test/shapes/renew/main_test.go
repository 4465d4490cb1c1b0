package main

import "testing"

func TestBook(t *testing.T) {
	got, err := book("testdata", "v0.1")
	if err != nil {
		t.Fatal(err)
	}
	want := `# What answers of the Matrix specification, v0.1, look like: API, method, path, status, shape. Package shapes says how shapes are written.
client-server	GET	/_matrix/client/v3/things/{id}	200	{"by_name":{"*":{"|":["integer","boolean"]}},"colour":"string:red|green","either":{"|":["string","null"]},"things!":[{"id!":"string","parent":"any","within":{"a":"number","b!":"any"}}]}
client-server	PUT	/_matrix/client/v3/things/{id}	200	"object"
server-server	GET	/key	200	{"*":"string"}
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if _, err := book("nowhere", "v0.1"); err == nil {
		t.Error("there is no such directory")
	}
}
