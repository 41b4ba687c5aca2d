package main

import (
	"math"
	"strings"

	"github.com/spf13/cobra"
)

// helpWidth is how wide a help is at most: that of the narrowest terminal in use.
const helpWidth = 80

// finish gives all commands below root what they have in common.
func finish(root *cobra.Command) {
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages ", "Flags.FlagUsagesWrapped 80 "))
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.Long, cmd.Example = fit(cmd.Long), fitCommands(cmd.Example)
		if cmd.Runnable() && cmd.ValidArgsFunction == nil {
			// Names of repositories are not files, and not to be asked of a database
			// by a key that was pressed.
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		tolerate(cmd)
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// tolerate has a command that needs the configuration of one program accept that
// of the other, so that a script can give both to all commands. It is not read.
func tolerate(cmd *cobra.Command) {
	flags := cmd.Flags()
	server, signer := flags.Lookup("server-config"), flags.Lookup("signer-config")
	if (server == nil) == (signer == nil) {
		return
	}
	name := "server-config"
	if server != nil {
		name = "signer-config"
	}
	flags.String(name, "", "accepted, and not used")
	_ = flags.MarkHidden(name)
}

// fit breaks anew the paragraphs that have a line which is too long.
func fit(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if longest(p) > helpWidth && !strings.HasPrefix(p, " ") && !strings.Contains(p, "\n ") {
			var b strings.Builder
			_ = paragraph(&b, helpWidth, "", "", p)
			paragraphs[i] = strings.TrimSuffix(b.String(), "\n")
		}
	}
	return strings.Join(paragraphs, "\n\n")
}

func longest(text string) (n int) {
	for line := range strings.SplitSeq(text, "\n") {
		n = max(n, len([]rune(line)))
	}
	return n
}

// fitCommands breaks command lines that are too long, as a shell takes them:
// before a flag if there is one, else before a word, and never within quotes.
func fitCommands(text string) string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		for len(line) > helpWidth {
			at := breakAt(line)
			if at < 0 {
				break
			}
			out = append(out, line[:at]+` \`)
			line = "      " + line[at+1:]
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func breakAt(line string) int {
	flag, word, quote := -1, -1, byte(0)
	start := len(line) - len(strings.TrimLeft(line, " "))
	for i := start; i < helpWidth-1; i++ {
		switch c := line[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == ' ' && strings.HasPrefix(line[i:], " --"):
			flag = i
		case c == ' ' && line[i+1] != '\\':
			word = i
		}
	}
	if flag > 0 {
		return flag
	}
	return word
}

// onTerminal is the text of an error, which may quote what others have chosen:
// lines and tabs stay, and no other character that a terminal would obey.
func onTerminal(text string) string {
	rows := strings.Split(text, "\n")
	for i, row := range rows {
		cells := strings.Split(row, "\t")
		for j, cell := range cells {
			cells[j] = printable(cell, math.MaxInt)
		}
		rows[i] = strings.Join(cells, "\t")
	}
	return strings.Join(rows, "\n")
}
