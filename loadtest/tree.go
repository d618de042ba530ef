package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// treeUsage is the CPU, user and system, of a process and its descendants, and
// their resident memory in bytes. What descendants took that have ended is not
// in it.
func treeUsage(pid int) (cpu time.Duration, rss int64, err error) {
	tree, err := descendants(pid)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range append(tree, pid) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil && p != pid {
			continue // it has ended meanwhile
		}
		if err != nil {
			return 0, 0, fmt.Errorf("CPU of a server: %w", err)
		}
		coarse, memory, err := parseStat(string(stat))
		if err != nil {
			return 0, 0, err
		}
		cpu, rss = cpu+max(coarse, threadTime(p)), rss+memory
	}
	return cpu, rss, nil
}

// threadTime adds up the time of a process's threads by their schedstat
// (Documentation/scheduler/sched-stats), which counts nanoseconds where stat
// counts hundredths of a second. Threads that have ended are not in it.
func threadTime(pid int) (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // the pattern is well-formed
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		ran, _, _ := strings.Cut(string(text), " ")
		if n, err := strconv.ParseInt(ran, 10, 64); err == nil {
			sum += time.Duration(n)
		}
	}
	return sum
}

// descendants are the children of a process, theirs, and so on.
func descendants(pid int) (all []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		if parent, err := parentIn(string(stat)); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	for level := children[pid]; len(level) > 0; {
		all = append(all, level...)
		var next []int
		for _, p := range level {
			next = append(next, children[p]...)
		}
		level = next
	}
	return all, nil
}

// parentIn is the parent's id in /proc/PID/stat.
func parentIn(stat string) (int, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, errors.New("/proc/PID/stat: too few fields")
	}
	return strconv.Atoi(fields[1])
}
