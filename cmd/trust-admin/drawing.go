package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"countersign/admin"
	"countersign/tuf"
)

// drawWidth is the width of the narrowest terminal in use.
const drawWidth = 80

// What is shown of long lists, unless everything is.
const (
	fewTags  = 5
	fewKeys  = 6
	fewPaths = 3
	fewRoles = 4
	// maxIndent is where the tree stops to move to the right: roles can be nested
	// a hundred deep.
	maxIndent = 30
)

// A drawing writes a trust tree. Its first error stays.
type drawing struct {
	w   io.Writer
	all bool
	now time.Time

	under map[tuf.RoleName][]*admin.RoleState
	err   error
}

// text writes a paragraph, the first line behind first, the others behind rest.
func (d *drawing) text(first, rest, format string, args ...any) {
	d.err = errors.Join(d.err, paragraph(d.w, drawWidth, first, rest, fmt.Sprintf(format, args...)))
}

func (d *drawing) repository(r *admin.Repository) {
	d.text("", "  ", "%s", printable(string(r.GUN), 300))
	line := func(key, format string, args ...any) {
		d.text(fmt.Sprintf("  %-11s", key), strings.Repeat(" ", 13), format, args...)
	}
	state := r.State
	if bad := d.faulty(r); len(bad) > 0 {
		state += ": " + d.some(bad, fewRoles)
	}
	line("state", "%s", state)
	limit := fewTags
	if d.all {
		limit = 0
	}
	if names := r.TagNames(limit); len(names) > 0 {
		for i := range names {
			names[i] = printable(names[i], 60)
		}
		first := ": "
		if r.Tags > len(names) {
			first = ", the first: "
		}
		line("tags", "%d%s%s", r.Tags, first, strings.Join(names, ", "))
	} else {
		line("tags", "none")
	}
	line("stored", "%d files of all versions, %s", r.Versions, humanSize(r.Size))
	line("published", "%s", clock(r.LastPublish))
	if r.NextExpiry != nil {
		line("expires", "%s is the first, at %s, %s", printable(string(r.NextExpiry.Role), 60), clock(r.NextExpiry.Expires), inDays(d.now, r.NextExpiry.Expires))
	}
	d.troubles("  ", r.Troubles, "!")
	under, strangers := children(r)
	d.under = under
	_, err := io.WriteString(d.w, "\n")
	d.err = errors.Join(d.err, err)
	for _, root := range under[""] {
		d.role([]*admin.RoleState{root}, "", "", 0)
	}
	for _, s := range strangers {
		d.text("(", "   ", "%s)", d.head(s))
		d.troubles("   ", s.Troubles, "!")
		d.troubles("   ", s.Notes, "-")
	}
}

// faulty names the roles with troubles.
func (d *drawing) faulty(r *admin.Repository) []string {
	var bad []string
	for _, role := range r.Roles {
		if len(role.Troubles) > 0 {
			bad = append(bad, printable(string(role.Role), 60))
		}
	}
	return bad
}

// some joins the first few of a list, unless everything is shown.
func (d *drawing) some(list []string, few int) string {
	if d.all || len(list) <= few+1 {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

// role draws one role, or several that are alike, and what is below. The first
// line stands behind first, all others behind rest.
func (d *drawing) role(roles []*admin.RoleState, first, rest string, depth int) {
	if depth > 200 { // no valid name is nested so deep
		return
	}
	r := roles[0]
	kids := d.group(d.under[r.Role], d.parents())
	if len(roles) > 1 {
		kids = nil
	}
	bar := "   "
	if len(kids) > 0 {
		bar = "|  "
	}
	body := rest + bar
	if len(roles) > 1 {
		d.folded(roles, first, body)
	} else {
		d.text(first, body, "%s", d.head(r))
		d.signers(r, body)
	}
	if r.Role.IsDelegation() {
		within := ""
		if r.Role.Parent().IsDelegation() {
			within = ", of those that " + printable(string(r.Role.Parent()), 255) + " may sign"
		}
		d.text(body, body+"  ", "signs %s%s", d.paths(r.Paths), within)
	}
	d.troubles(body, r.Troubles, "!")
	d.troubles(body, r.Notes, "-")
	for i, kid := range kids {
		mark, below := "+- ", "|  "
		if i == len(kids)-1 {
			mark, below = "`- ", "   "
		}
		if len(rest) >= maxIndent {
			below = ""
		}
		d.role(kid, rest+mark, rest+below, depth+1)
	}
}

// parents are the roles that have others below them.
func (d *drawing) parents() map[tuf.RoleName]bool {
	p := make(map[tuf.RoleName]bool, len(d.under))
	for role := range d.under {
		p[role] = true
	}
	return p
}

// head is the first line of a role.
func (d *drawing) head(r *admin.RoleState) string {
	text := printable(string(r.Role), 255)
	if r.Version == 0 {
		return text + " (no file)"
	}
	text += fmt.Sprintf("  version %d, %s", r.Version, humanSize(r.Size))
	if r.Role == tuf.RoleTargets || r.Role.IsDelegation() && r.Parent != "" {
		text += ", " + counted(r.Tags, "tag")
	}
	return text + ", expires " + clock(r.Expires)
}

// signers draws the keys of a role.
func (d *drawing) signers(r *admin.RoleState, body string) {
	if len(r.Keys) == 0 && r.Threshold == 0 {
		return
	}
	d.text(body, body, "%s, %d must sign", counted(len(r.Keys), "key"), r.Threshold)
	for i, k := range r.Keys {
		if i == fewKeys && len(r.Keys) > fewKeys+1 && !d.all {
			d.text(body+"  ", body+"  ", "and %d more keys", len(r.Keys)-fewKeys)
			break
		}
		mark := "  "
		if k.Signed {
			mark = "* "
		}
		d.text(body+mark, body+"    ", "%s %s, %s", printable(admin.ShortID(k.Canonical), 40), printable(k.Type, 20), holder(k.Holder))
		if c := k.Certificate; c != nil {
			d.text(body+"    ", body+"    ", "%s, %s to %s", printable(c.CommonName, 120), c.NotBefore.Format("2006-01-02"), c.NotAfter.Format("2006-01-02"))
		}
	}
}

func holder(h string) string {
	switch h {
	case admin.HeldByServer:
		return "held by the server"
	case admin.HeldByClient:
		return "held by a client"
	}
	return "holder unknown"
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// paths says which names a delegation may sign.
func (d *drawing) paths(list []string) string {
	switch {
	case len(list) == 0:
		return "no name: it has no paths"
	case slices.Contains(list, ""):
		return "all names"
	}
	var names []string
	for _, p := range list {
		if !d.all && len(names) == fewPaths && len(list) > fewPaths+1 {
			return fmt.Sprintf("names that begin with %s or %d more", strings.Join(names, ", "), len(list)-fewPaths)
		}
		names = append(names, printable(p, 100))
	}
	return "names that begin with " + strings.Join(names, ", ")
}

// folded draws delegations that are alike as one.
func (d *drawing) folded(roles []*admin.RoleState, first, body string) {
	var names []string
	low, high := roles[0], roles[0]
	earliest := roles[0]
	for _, r := range roles {
		names = append(names, printable(string(r.Role), 60))
		if r.Tags < low.Tags {
			low = r
		}
		if r.Tags > high.Tags {
			high = r
		}
		if r.Expires.Before(earliest.Expires) {
			earliest = r
		}
	}
	d.text(first, body+"  ", "%d delegations alike: %s", len(roles), d.some(names, fewRoles))
	r := roles[0]
	d.text(body, body, "%s each, %d must sign", counted(len(r.Keys), "key"), r.Threshold)
	if r.Version == 0 {
		return
	}
	tags := counted(low.Tags, "tag")
	if high.Tags != low.Tags {
		tags = fmt.Sprintf("%d to %d tags", low.Tags, high.Tags)
	}
	verdict := "all verify"
	if !r.Verifies {
		verdict = "none verifies, because of the roles above"
	}
	d.text(body, body, "%s each; %s; the first expires %s", tags, verdict, clock(earliest.Expires))
}

func (d *drawing) troubles(body string, list []admin.Trouble, mark string) {
	for _, t := range list {
		d.text(body+mark+" ", body+"  ", "%s", printable(t.What, 2000))
		if t.Do != "" {
			d.text(body+"  -> ", body+"     ", "%s", printable(t.Do, 2000))
		}
	}
}
