// Second-verifier checks an evidence package with golang.org/x/mod/sumdb/{note,tlog} alone: it shares no code with Signet.
//
//	second-verifier DIRECTORY VERIFIER-KEY..
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type listed struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

type previous struct {
	Checkpoint string   `json:"checkpoint"`
	Proof      []string `json:"proof"`
}

type evidence struct {
	Directory string    `json:"directory"`
	Log       string    `json:"log"`
	Records   int       `json:"records"`
	Previous  *previous `json:"previous"`
}

type description struct {
	Logs  []evidence `json:"logs"`
	Files []listed   `json:"files"`
}

type entry struct {
	LeafIndex int64    `json:"leaf_index"`
	Canonical string   `json:"canonical"`
	Proof     []string `json:"proof"`
}

func main() {
	records, err := check(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL", err)
		os.Exit(1)
	}
	fmt.Println(records)
}

func check(directory string, keys []string) (int, error) {
	verifiers := map[string]note.Verifier{}
	for _, key := range keys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return 0, err
		}
		verifiers[verifier.Name()] = verifier
	}
	text, err := os.ReadFile(filepath.Join(directory, "package.json"))
	if err != nil {
		return 0, err
	}
	var what description
	if err := json.Unmarshal(text, &what); err != nil {
		return 0, err
	}
	signed, err := os.ReadFile(filepath.Join(directory, "package.note"))
	if err != nil {
		return 0, err
	}
	for _, file := range what.Files {
		content, err := os.ReadFile(filepath.Join(directory, filepath.FromSlash(file.Path)))
		if err != nil {
			return 0, err
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != file.SHA256 {
			return 0, fmt.Errorf("%s was changed", file.Path)
		}
	}
	records := 0
	for _, log := range what.Logs {
		verifier, known := verifiers[log.Log]
		if !known {
			return 0, fmt.Errorf("no key of %s", log.Log)
		}
		statement, err := note.Open(signed, note.VerifierList(verifier))
		if err != nil {
			return 0, fmt.Errorf("package.note: %w", err)
		}
		want := fmt.Sprintf("signet.statement/v1\nevidence\nsha256:%x\n", sha256.Sum256(text))
		if statement.Text != want {
			return 0, fmt.Errorf("package.note speaks of another package")
		}
		found, err := inclusion(directory, log, verifier)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", log.Log, err)
		}
		records += found
	}
	return records, nil
}

// Tree opens a C2SP tlog-checkpoint.
func tree(text, origin string, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 3 || lines[0] != origin {
		return tlog.Tree{}, fmt.Errorf("it is a checkpoint of another log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("its root is none")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

func hashes(texts []string) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, text := range texts {
		hash, err := hex.DecodeString(text)
		if err != nil || len(hash) != tlog.HashSize {
			return nil, fmt.Errorf("%q is no hash", text)
		}
		out = append(out, tlog.Hash(hash))
	}
	return out, nil
}

func inclusion(directory string, log evidence, verifier note.Verifier) (int, error) {
	below := filepath.Join(directory, filepath.FromSlash(log.Directory))
	text, err := os.ReadFile(filepath.Join(below, "checkpoint"))
	if err != nil {
		return 0, err
	}
	signed, err := tree(string(text), log.Log, verifier)
	if err != nil {
		return 0, err
	}
	if log.Previous != nil {
		old, err := tree(log.Previous.Checkpoint, log.Log, verifier)
		if err != nil {
			return 0, err
		}
		proof, err := hashes(log.Previous.Proof)
		if err != nil {
			return 0, err
		}
		if err := tlog.CheckTree(proof, signed.N, signed.Hash, old.N, old.Hash); err != nil {
			return 0, fmt.Errorf("it does not continue the earlier checkpoint: %w", err)
		}
	}
	file, err := os.Open(filepath.Join(below, "entries.jsonl"))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	found := 0
	for lines.Scan() {
		var record entry
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			return 0, err
		}
		canonical, err := hex.DecodeString(record.Canonical)
		if err != nil {
			return 0, err
		}
		proof, err := hashes(record.Proof)
		if err != nil {
			return 0, err
		}
		leaf := tlog.RecordHash(canonical)
		if err := tlog.CheckRecord(proof, signed.N, signed.Hash, record.LeafIndex, leaf); err != nil {
			return 0, fmt.Errorf("record %d: %w", record.LeafIndex, err)
		}
		found++
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if found != log.Records {
		return 0, fmt.Errorf("%d records, the package says %d", found, log.Records)
	}
	return found, nil
}
