package config_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"countersign/internal/config"
)

// keys lists the dotted keys of the settings in t, as files write them.
func keys(t reflect.Type, prefix string) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("json")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			all = append(all, keys(f.Type, prefix)...)
		case f.Type.Kind() == reflect.Struct:
			all = append(all, keys(f.Type, prefix+name+".")...)
		default:
			all = append(all, prefix+name)
		}
	}
	return all
}

// TestManual: every setting is in the manual, by its full name.
func TestManual(t *testing.T) {
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	settings := append(keys(reflect.TypeFor[config.Server](), ""), keys(reflect.TypeFor[config.Signer](), "")...)
	if !slices.Contains(settings, "storage.default_alias") || !slices.Contains(settings, "caching.max_age.current_metadata") {
		t.Fatalf("the settings are listed as %q", settings)
	}
	for _, key := range settings {
		if !strings.Contains(string(raw), "`"+key+"`") {
			t.Errorf("docs/configuration.md does not mention `%s`", key)
		}
	}
}
