// Files: reading, atomic writing, listing, checksums. Every error names the path and the system's reason.
//
// Thread safety: free functions, safe on different paths.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace gatemill {

Result<std::string> ReadFile(const std::string& path);
// Writes `path`.tmp, fsyncs it, renames it to `path` and fsyncs the directory: readers see the old file or the new one.
Status WriteFileAtomic(const std::string& path, std::string_view contents);
// The same where there is no file yet; else nothing is written, and false is returned. Of several that write one the first wins.
Result<bool> WriteNewFile(const std::string& path, std::string_view contents);
Status MakeDirs(const std::string& path);
// Waits until the entries of a directory are on disk.
Status SyncDir(const std::string& path);
// `from` becomes `to`, in the same directory. What was there is exchanged with it in one step (and then is at `from`), where the file
// system can: at every moment `to` is the old one or the new one; else it is removed first. Waits until the entries are on disk.
Status RenameOver(const std::string& from, const std::string& to);
Status RemoveTree(const std::string& path);  // a missing path is ok
bool FileExists(const std::string& path);    // a file or a directory
Result<std::uint64_t> FileSize(const std::string& path);
std::uint64_t Checksum(std::string_view bytes);  // XXH3-64
// The same of a file's bytes, read in blocks.
Result<std::uint64_t> FileChecksum(const std::string& path);
// Names (not paths) in a directory, sorted.
Result<std::vector<std::string>> ListDir(const std::string& path);
// Regular files under `path`, recursively, as paths relative to it, sorted.
Result<std::vector<std::string>> ListTree(const std::string& path);
// Paths that match a shell pattern (*, ?, [..]), sorted; a pattern without wildcards gives itself if it exists.
// kNotFound when nothing matches.
Result<std::vector<std::string>> Glob(const std::string& pattern);
// Does `name` match the shell pattern? For column globs such as "onehot_feat*".
bool MatchesPattern(const std::string& pattern, const std::string& name);
// Could a file be written at `path`? kInvalidInput when its directory is missing or not writable, or it is a directory:
// asked before the work whose result is to be written there.
Status CheckOutputFile(const std::string& path);
// Could a directory be made at `path`, or is there one that can be written to? kInvalidInput otherwise. Makes nothing.
Status CheckDirCanBe(const std::string& path);
// Creates `path` with its parents and proves by writing and removing a file that it can be written.
Status CheckWritableDir(const std::string& path);

// Makes a private directory under `parent`, which is made too; "" = the system's directory for temporary files (TMPDIR).
// kInvalidInput when there cannot be one.
Result<std::string> NewScratchDir(const std::string& parent);

// Holds an exclusive lock on a file while it lives; the system lets go of it when the process ends.
class FileLock {
 public:
  virtual ~FileLock() = default;
};
// Creates `path` if need be. kUnavailable when another process holds it.
Result<std::unique_ptr<FileLock>> LockFile(const std::string& path);

}  // namespace gatemill
