#include "launcher/mpirun_files.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "common/file.h"

namespace gatemill::launcher {
namespace {

constexpr const char* kSessions = "ompi.";
constexpr const char* kSegment = "vader_segment.";
constexpr int kFamilyShift = 16;  // a job's number: its mpirun's, then its own among the jobs of that

std::vector<std::string> NamesIn(const std::string& dir) {
  const Result<std::vector<std::string>> names = ListDir(dir);
  return names.ok() ? *names : std::vector<std::string>();
}

// `owner`: "HOST.UID".
Status RemoveSegments(const std::string& shared_memory, const std::string& owner, std::uint64_t family) {
  const std::string begin = kSegment + owner + ".";
  for (const std::string& name : NamesIn(shared_memory)) {
    if (!name.starts_with(begin)) continue;
    const std::uint64_t job = std::strtoull(name.c_str() + begin.size(), nullptr, 16);
    if (job >> kFamilyShift == family) GM_RETURN_IF_ERROR(RemoveTree(shared_memory + "/" + name));
  }
  return Ok();
}

}  // namespace

std::string SessionsDir() {
  for (const char* name : {"TMPDIR", "TEMP", "TMP"}) {
    if (const char* dir = std::getenv(name); dir != nullptr && *dir != '\0') return dir;
  }
  return "/tmp";
}

Status RemoveMpirunFiles(pid_t mpirun, const std::string& sessions_dir, const std::string& shared_memory) {
  for (const std::string& name : NamesIn(sessions_dir)) {
    if (!name.starts_with(kSessions) || !name.ends_with("." + std::to_string(::geteuid()))) continue;
    const std::string sessions = sessions_dir + "/" + name;
    const std::string session = sessions + "/pid." + std::to_string(mpirun);
    if (!FileExists(session)) continue;
    const Result<std::string> contact = ReadFile(session + "/contact.txt");
    const std::uint64_t job = contact.ok() ? std::strtoull(contact->c_str(), nullptr, 10) : 0;
    if (job != 0) GM_RETURN_IF_ERROR(RemoveSegments(shared_memory, name.substr(std::string(kSessions).size()), job >> kFamilyShift));
    GM_RETURN_IF_ERROR(RemoveTree(session));
    (void)::rmdir(sessions.c_str());  // it may have others
  }
  return Ok();
}

}  // namespace gatemill::launcher
