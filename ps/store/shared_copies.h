// Copies of a store's files on another disk, where links to them cannot be: what a copy has in common with the one before is a
// hard link to that, so it costs what has changed.
//
//   SharedCopies copies;
//   GM_RETURN_IF_ERROR(copies.Write(files, "/nfs/run/step-10.tmp/ps/shard-0", nullptr));   // may be renamed afterwards,
//   GM_RETURN_IF_ERROR(copies.Write(files, "/nfs/run/step-20.tmp/ps/shard-0", nullptr));   // and removed
//
// Every file and the directory are fsynced. `copied` of Write as of RowStore::Checkpoint. Errors: kInternal for a full or failing
// disk and what else the system says, naming the file, kDataLoss for one that is too short; the new directory is removed then,
// and the one before stays the one to share with.
// Thread safety: one thread.
#pragma once

#include <dirent.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace gatemill::ps {

struct FileToCopy {
  std::string from;                     // path
  std::string name;                     // in the copy
  std::uint64_t bytes = 0;              // so many from its beginning
  bool immutable = false;               // under this name there is never another one
  std::optional<std::string> contents;  // instead of those of `from`
};

class SharedCopies {
 public:
  using VisitCopied = std::function<Status(std::uint64_t bytes)>;
  // `dir` must not exist, its parent must.
  Status Write(std::span<const FileToCopy> files, const std::string& dir, const VisitCopied& copied);
  // Files of other names than before: nothing is shared with the next copy.
  void Forget() { last_.reset(); }

 private:
  struct CloseDir {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };
  Status WriteFiles(std::span<const FileToCopy> files, const std::string& dir, const VisitCopied& copied) const;
  [[nodiscard]] bool LinkToLast(const FileToCopy& file, const std::string& to) const;

  std::unique_ptr<DIR, CloseDir> last_;  // open: it may get another name
};

}  // namespace gatemill::ps
