package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/server"
	"countersign/tuf"
)

// Section 9.
func TestChangefeed(t *testing.T) {
	s := newStack(t, func(c *server.Config) { c.Limits.ChangesPage = 5 })
	repo := s.newRepo(gunApp)
	s.publish(gunApp, repo.Upload())
	s.publish("other", s.newRepo("other").Upload())
	for range 4 {
		s.publish(gunApp, repo.Next(tuf.RoleTargets))
	}
	s.do(call{method: "DELETE", target: "/v2/other/_trust/tuf/"})

	type record struct {
		ID, CreatedAt, GUN string
		Version            int
		SHA256, Category   string
	}
	page := func(target string) []record {
		t.Helper()
		r := s.get(target)
		var p struct {
			Count   int
			Records []record
		}
		if err := json.Unmarshal([]byte(r.body), &p); err != nil || r.status != http.StatusOK || p.Count != len(p.Records) {
			t.Fatalf("%s: %d %s", target, r.status, r.body)
		}
		if r.want(t, http.StatusOK, plainType, r.body); !strings.HasPrefix(r.body, `{"count":`) {
			t.Errorf("%s: %s", target, r.body)
		}
		return p.Records
	}
	all := append(page("/v2/_trust/changefeed?records=5"), page("/v2/_trust/changefeed?records=5&change_id=5")...)
	var got []string
	for _, c := range all {
		got = append(got, strings.Join([]string{c.ID, c.GUN, c.Category}, " "))
	}
	g := string(gunApp)
	want := []string{"1 " + g + " update", "2 other update", "3 " + g + " update", "4 " + g + " update", "5 " + g + " update", "6 " + g + " update", "7 other deletion"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	timestamp := s.get(app + "timestamp.json").body
	if newest := all[5]; newest.SHA256 != tuf.Sum([]byte(timestamp)).String() || newest.Version != 5 {
		t.Errorf("%+v does not name the timestamp", newest)
	}
	if gone := all[6]; gone.SHA256 != strings.Repeat(" ", 64) || gone.Version != 0 {
		t.Errorf("%+v of a deletion", gone)
	}
	// Names and order of members, and a time in UTC.
	form := regexp.MustCompile(`^\{"count":1,"records":\[\{"ID":"1","CreatedAt":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z","GUN":"` + regexp.QuoteMeta(g) + `","Version":1,"SHA256":"[0-9a-f]{64}","Category":"update"\}\]\}$`)
	if r := s.get("/v2/_trust/changefeed?records=1"); !form.MatchString(r.body) {
		t.Errorf("%s", r.body)
	}

	for query, want := range map[string]string{
		"records=2":                "1 2",
		"records=2&change_id=":     "1 2",
		"records=0":                "1 2 3 4 5",
		"records=100000":           "1 2 3 4 5",
		"records=2&change_id=3":    "4 5",
		"records=2&change_id=7":    "",
		"records=-1&change_id=3":   "2",
		"records=-2&change_id=4":   "2 3",
		"records=-2":               "6 7",
		"records=-2&change_id=0":   "6 7",
		"records=2&change_id=-1":   "6 7",
		"records=-2&change_id=-9":  "6 7",
		"records=-2147483648":      "3 4 5 6 7",
		"records=%2B2&change_id=1": "2 3",
		"records=002&change_id=01": "2 3",
	} {
		var ids []string
		for _, r := range page("/v2/_trust/changefeed?" + query) {
			ids = append(ids, r.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if n := len(page("/v2/other/_trust/changefeed?records=10")); n != 2 {
		t.Errorf("%d records of one GUN, want 2", n)
	}
	s.get("/v2/nobody/_trust/changefeed?records=1").want(t, http.StatusOK, plainType, `{"count":0,"records":[]}`)
	s.check(gunApp)
}

func TestChangefeedParameters(t *testing.T) {
	s := newStack(t, nil)
	for query, detail := range map[string]string{
		"":                        `"invalid records parameter: strconv.ParseInt: parsing \"\": invalid syntax"`,
		"records=":                `"invalid records parameter: strconv.ParseInt: parsing \"\": invalid syntax"`,
		"records=x":               `"invalid records parameter: strconv.ParseInt: parsing \"x\": invalid syntax"`,
		"records=1.5":             `"invalid records parameter: strconv.ParseInt: parsing \"1.5\": invalid syntax"`,
		"records=2147483648":      `"invalid records parameter: strconv.ParseInt: parsing \"2147483648\": value out of range"`,
		"records=1&change_id=x":   `{}`,
		"records=1&change_id=1e3": `{}`,
		"records=1&change_id=99999999999999999999":       `{}`,
		"records=" + strings.Repeat("x", 5000):           `"invalid records parameter: strconv.ParseInt: parsing \"` + strings.Repeat("x", 64) + `\": invalid syntax"`,
		"records=" + url.QueryEscape("\x00\xff\n<&>\"'"): `"invalid records parameter: strconv.ParseInt: parsing \"\\x00�\\n\u003c\u0026\u003e\\\"'\": invalid syntax"`,
	} {
		want := `{"errors":[{"code":"INVALID_PARAMETERS","message":"The parameters provided are not valid.","detail":` + detail + `}]}` + "\n"
		s.get("/v2/_trust/changefeed?"+query).want(t, http.StatusBadRequest, jsonType, want)
		s.get("/v2/a/_trust/changefeed?"+query).want(t, http.StatusBadRequest, jsonType, want)
	}
}
