package main

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// A grant is an entry of the claim "access".
type grant struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// access is what the user may do with what was asked for. As with Harbor, the
// actions are all that the user may do, whichever were asked for, in any order;
// where there are none, the entry has an empty list.
func (s *service) access(a asking) []grant {
	grants := []grant{}
	for _, scope := range a.scopes {
		first, last := strings.Index(scope, ":"), strings.LastIndex(scope, ":")
		if first == last {
			continue // no scope at all
		}
		g := grant{Type: scope[:first], Name: scope[first+1 : last], Actions: []string{}}
		switch {
		case g.Type == "repository":
			g.Actions = s.actions(a, g.Name)
		case g.Type == "registry" && g.Name == "catalog" && s.Users[a.user].Catalog:
			g.Actions = []string{"*"}
		}
		grants = append(grants, g)
	}
	return grants
}

func (s *service) actions(a asking, name string) []string {
	if s.Services[a.service].Host {
		_, path, ok := strings.Cut(name, "/")
		if !ok {
			return []string{}
		}
		name = path
	}
	project, _, _ := strings.Cut(name, "/")
	granted := slices.Clone(s.Users[a.user].Projects[project])
	if slices.Contains(s.Public, project) && !slices.Contains(granted, "pull") {
		granted = append(granted, "pull")
	}
	has := func(permission string) bool { return slices.Contains(granted, permission) }
	actions := []string{}
	for _, action := range []string{"pull", "push", "delete", "scanner-pull"} {
		if has(action) {
			actions = append(actions, action)
		}
	}
	var everything bool
	switch a.style.harbor {
	case "1.10.6":
		everything = has("manage")
	case "2.1.3":
	default:
		everything = has("pull") && has("push") && has("delete")
	}
	if everything {
		actions = append(actions, "*")
	}
	rand.Shuffle(len(actions), func(i, j int) { actions[i], actions[j] = actions[j], actions[i] })
	return actions
}
