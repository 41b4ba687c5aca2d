package config

import (
	"net/url"
	"regexp"
	"strings"
)

// How a password in a URL is read
//
// A URL that follows the rules is read by them: a percent sign and two digits
// are one character. Harbor's compose files write the password as it is, so that
// ':', '/', '?', '#', '%' and '@' may stand in it. If the rules fail, or leave an
// '@' behind the place where the host ends, the URL is read once more: every '@'
// is tried as the end of the password, and what follows must be no more than
// host, port, database and settings. If exactly one fits, that is it, nothing in
// the password is decoded, and a warning tells what was taken for the host. If
// none fits, and each '@' is in the value of a setting of a URL by the rules, it
// is that. Else, if none fits or several do, it is a fault: a guess could send the password to
// another host.

// plainTail is what may follow the password, with nothing that would need encoding.
var plainTail = regexp.MustCompile(`^((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|%2[Ff][A-Za-z0-9._%-]+)(?::[0-9]{1,5})?` +
	`(?:,(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)*)` +
	`(/[A-Za-z0-9._$~-]+)(\?(?:[a-z_]+=[^&#@?]*(?:&[a-z_]+=[^&#@?]*)*)?)?$`)

// settings are what may follow the question mark.
var settings = regexp.MustCompile(`^[a-z_]+=[^&#?]*(&[a-z_]+=[^&#?]*)*$`)

// A dbURL is the outcome of reading one.
type dbURL struct {
	text string // by the rules
	// lenient is where it leads, if the rules alone did not decide: host and database.
	lenient string
	problem string
}

// readDBURL reads a postgres:// URL. No problem that it returns holds a part of it.
func readDBURL(raw string) dbURL {
	u, err := url.Parse(raw)
	if err == nil && !strings.ContainsAny(u.EscapedPath()+"?"+u.RawQuery, "@") && u.Fragment == "" && !strings.HasSuffix(raw, "#") {
		return dbURL{text: raw}
	}
	scheme, rest, _ := strings.Cut(raw, "://")
	var found []dbURL
	for i := range len(rest) {
		if rest[i] != '@' {
			continue
		}
		parts := plainTail.FindStringSubmatch(rest[i+1:])
		if parts == nil {
			continue
		}
		user, password, has := strings.Cut(rest[:i], ":")
		if user == "" || strings.ContainsAny(user, "/?#@") {
			continue
		}
		info := url.User(user)
		if has {
			info = url.UserPassword(user, password)
		}
		found = append(found, dbURL{
			text:    scheme + "://" + info.String() + "@" + rest[i+1:],
			lenient: "role " + user + ", host " + parts[1] + ", database " + strings.TrimPrefix(parts[2], "/"),
		})
	}
	switch {
	case len(found) == 0 && err == nil && u.User != nil && u.Host != "" && u.Fragment == "" && !strings.HasSuffix(raw, "#") &&
		!strings.Contains(u.EscapedPath(), "@") && settings.MatchString(u.RawQuery):
		return dbURL{text: raw} // the '@' is in the value of a setting, and can be nothing else
	case len(found) == 0:
		return dbURL{problem: "it is not a valid URL"}
	case len(found) > 1:
		return dbURL{problem: "it can be read in several ways: more than one @ could end the password"}
	case err == nil && u.User != nil && u.Host != "" && u.Fragment == "" && "role "+u.User.Username()+", host "+u.Host != strings.SplitN(found[0].lenient, ", database", 2)[0]:
		// Read by the rules it is whole, and leads elsewhere.
		return dbURL{problem: "it can be read in two ways, which lead to different hosts"}
	}
	return found[0]
}
