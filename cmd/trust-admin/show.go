package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

func newShow() *cobra.Command {
	var f siteFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "show GUN",
		Short: "Draw the trust tree of a repository, and say what is wrong with it",
		Long: `Draw who vouches for whom in a repository: root, and what it lists; targets, and
its delegations. Of each role: its version, size and expiry, how many of its
keys must sign, which have (marked with *), who holds them, their certificates,
and the names that it may sign. Where a role does not verify it says why, and
what mends it, with the commands of the clients.

Delegations that are alike are drawn as one, and of many tags only the first are
named; --all unfolds everything. The drawing is 80 columns wide. --output json
has all of it, with whole key IDs.

Exit code: 0, or 3 if something is wrong with the repository.`,
		Example: `  trust-admin show registry.example.com/team/app --server-config server.json --signer-config signer.json
  trust-admin show registry.example.com/team/app --server-config server.json --all | less`,
		Args: exactGUN,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				r, err := s.Show(ctx, tuf.GUN(args[0]))
				if err != nil {
					return err
				}
				if f.output == "json" {
					err = lines{cmd.OutOrStdout()}.write(r, true)
				} else {
					d := drawing{w: cmd.OutOrStdout(), all: all, now: s.Now()}
					d.repository(r)
					err = d.err
				}
				if err == nil && r.State != admin.StateOK {
					return fmt.Errorf("%w: the state of the repository is %q", errToDo, r.State)
				}
				return err
			})
		},
	}
	f.add(cmd, needServer)
	f.addSigner(cmd, optionalSigner)
	cmd.Flags().BoolVar(&all, "all", false, "draw every delegation, and name every tag, key and path")
	return cmd
}

// alike is what delegations have in common that are drawn as one.
func alike(r *admin.RoleState) string {
	key := fmt.Sprintf("%d %d %v %q", r.Threshold, len(r.Keys), r.Verifies, r.Paths)
	for _, k := range r.Keys {
		key += fmt.Sprintf(" %s %s %v %v", k.Type, k.Holder, k.Signed, k.Certificate != nil)
	}
	for _, n := range r.Notes {
		key += n.What
	}
	return key
}

// group puts delegations of one parent that are alike together, in the place of
// the first of them.
func (d *drawing) group(list []*admin.RoleState, hasChildren map[tuf.RoleName]bool) [][]*admin.RoleState {
	var groups [][]*admin.RoleState
	at := map[string]int{}
	for _, r := range list {
		single := d.all || len(r.Troubles) > 0 || hasChildren[r.Role] || r.Role == "targets/releases" || !r.Role.IsDelegation()
		key := alike(r)
		if i, ok := at[key]; ok && !single {
			groups[i] = append(groups[i], r)
			continue
		}
		if !single {
			at[key] = len(groups)
		}
		groups = append(groups, []*admin.RoleState{r})
	}
	// A few are drawn each for itself.
	var out [][]*admin.RoleState
	for _, g := range groups {
		if len(g) >= leastFolded {
			out = append(out, g)
			continue
		}
		for _, r := range g {
			out = append(out, []*admin.RoleState{r})
		}
	}
	return out
}

// leastFolded is how many delegations must be alike to be drawn as one.
const leastFolded = 4

// children sorts the roles under those that list their keys.
func children(r *admin.Repository) (under map[tuf.RoleName][]*admin.RoleState, strangers []*admin.RoleState) {
	under = map[tuf.RoleName][]*admin.RoleState{}
	for _, role := range r.Roles {
		switch {
		case role.Role == tuf.RoleRoot:
			under[""] = append(under[""], role)
		case slices.Contains(tuf.BaseRoles[:], role.Role):
			under[tuf.RoleRoot] = append(under[tuf.RoleRoot], role)
		case role.Parent == "":
			strangers = append(strangers, role)
		default:
			under[role.Parent] = append(under[role.Parent], role)
		}
	}
	return under, strangers
}

func inDays(now, t time.Time) string {
	if t.Before(now) {
		return "which is past"
	}
	if days := int(t.Sub(now) / (24 * time.Hour)); days != 1 {
		return fmt.Sprintf("in %d days", days)
	}
	return "in 1 day"
}
