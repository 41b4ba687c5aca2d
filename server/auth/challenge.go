package auth

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// hostForm is what may stand in the place of a host in a URL: a name or an IPv4
// address, or an IPv6 address in brackets, and a port.
var hostForm = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*)|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

const maxHost = 255 + len(":65535")

// challenge says where to get a token, and for what. problem is "" unless a
// token was sent.
func (t *Tokens) challenge(r *http.Request, need []Access, problem string) string {
	realm := t.cfg.Realm
	if t.cfg.Autoredirect && len(r.Host) <= maxHost && hostForm.MatchString(r.Host) {
		realm = "https://" + r.Host + "/auth/token"
	}
	c := "Bearer realm=" + quotedString(realm) + ",service=" + quotedString(t.cfg.Service)
	if s := scope(need); s != "" {
		c += ",scope=" + quotedString(s)
	}
	if problem != "" {
		c += ",error=" + quotedString(problem)
	}
	return c
}

// scope lists the actions of each resource, in the order in which need has them.
func scope(need []Access) string {
	type resource struct{ typ, name string }
	var order []resource
	actions := map[resource][]string{}
	for _, a := range need {
		of := resource{a.Type, a.Name}
		if actions[of] == nil {
			order = append(order, of)
		}
		if !slices.Contains(actions[of], a.Action) {
			actions[of] = append(actions[of], a.Action)
		}
	}
	var scopes []string
	for _, of := range order {
		scopes = append(scopes, of.typ+":"+of.name+":"+strings.Join(actions[of], ","))
	}
	return strings.Join(scopes, " ")
}

// quotedString keeps s within its quotes and the header within ASCII: a quote or
// a backslash gets a backslash, as HTTP has it, and so far upstream does the
// same. All that is not printable ASCII is told as in Go ("\n", "\x7f", "\u00e9"),
// or HTTP/2 would drop the whole header. Clients do not read the scope.
func quotedString(s string) string { return strconv.QuoteToASCII(s) }
