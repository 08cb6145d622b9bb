// gatemill doctor: what this machine has, what of it will be used, and what to do about what is missing.

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"
#include "launcher/child_job.h"
#include "launcher/command.h"
#include "launcher/job.h"
#include "launcher/output.h"
#include "worker/model/dense_model.h"

namespace gatemill::launcher {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr double kLowMemoryBytes = 2 * kGiB;
constexpr double kLowDiskBytes = 5 * kGiB;
constexpr double kLowSharedMemoryBytes = kGiB / 8;
constexpr rlim_t kFewOpenFiles = 4096;  // RocksDB keeps its files open

// One line of the report. `advice` says what to do; a finding with advice is a warning.
struct Finding {
  std::string name;
  std::string value;
  std::string advice;
};

std::string Gibibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f GiB", bytes / kGiB);
  return text;
}

// A system file's text without its last newline; "" when there is no such file.
std::string SystemFile(const std::string& path) {
  auto text = ReadFile(path);
  if (!text.ok()) return "";
  while (text->ends_with('\n')) text->pop_back();
  return *text;
}

// The value behind "NAME  : " in a file such as /proc/cpuinfo; the first when there are several.
std::string FieldOf(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(name)) continue;
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

// Cores' worth of time that the control group grants; 0: no limit.
double GrantedCores() {
  std::istringstream quota(SystemFile("/sys/fs/cgroup/cpu.max"));
  double microseconds = 0;
  double period = 0;
  return quota >> microseconds >> period && period > 0 ? microseconds / period : 0;
}

std::vector<Finding> Processor() {
  const std::string info = SystemFile("/proc/cpuinfo");
  const std::string flags = " " + FieldOf(info, "flags") + " ";
  const long cores = ::sysconf(_SC_NPROCESSORS_ONLN);
  std::string model = FieldOf(info, "model name");
  if (model.empty()) model = "unknown model";
  cpu_set_t mask;
  const int usable = ::sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : static_cast<int>(cores);
  std::string advice;
  if (usable < cores) {
    advice = "this process is bound to " + std::to_string(usable) + " of " + std::to_string(cores) +
             " cores (under mpirun: --bind-to none)";
  } else if (const double granted = GrantedCores(); granted > 0 && granted < static_cast<double>(cores)) {
    advice = "the control group grants the time of " + std::to_string(granted).substr(0, 4) +
             " cores; more train.threads than that only wait for each other";
  }
  std::string features;
  for (const char* feature : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}) {
    const bool has = flags.find(" " + std::string(feature) + " ") != std::string::npos;
    features += (features.empty() ? "" : ", ") + std::string(feature) + (has ? " yes" : " no");
  }
  const bool vectors = flags.find(" avx2 ") != std::string::npos;
  return {{"cpu", model + ", " + std::to_string(cores) + " cores", advice},
          {"cpu features", features, vectors ? "" : "without avx2 matrix products are several times slower"}};
}

std::vector<Finding> Memory() {
  const std::string info = SystemFile("/proc/meminfo");
  const double total = std::strtod(FieldOf(info, "MemTotal").c_str(), nullptr) * 1024.0;
  const double available = std::strtod(FieldOf(info, "MemAvailable").c_str(), nullptr) * 1024.0;
  const double limit = std::strtod(SystemFile("/sys/fs/cgroup/memory.max").c_str(), nullptr);  // "max" reads 0
  std::string value = Gibibytes(total) + ", " + Gibibytes(available) + " available";
  if (limit > 0 && limit < total) value += ", limited to " + Gibibytes(limit) + " by the control group";
  const std::string pages = SystemFile("/sys/kernel/mm/transparent_hugepage/enabled");
  const bool never = pages.empty() || pages.find("[never]") != std::string::npos;
  return {{"memory", value, available < kLowMemoryBytes ? "little is left: close other programs" : ""},
          {"huge pages", pages.empty() ? "unknown" : pages,
           never ? "big tables are looked up faster with them: "
                   "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root"
                 : ""}};
}

Finding Space(const std::string& name, const std::filesystem::path& path, double low_bytes, const std::string& advice) {
  std::error_code error;
  const auto space = std::filesystem::space(path, error);
  if (error) return {name, path.string() + ": " + error.message(), advice};
  const auto free_bytes = static_cast<double>(space.available);
  return {name, Gibibytes(free_bytes) + " free in " + path.string(), free_bytes < low_bytes ? advice : ""};
}

std::vector<Finding> Disk() {
  std::error_code error;
  return {Space("disk", std::filesystem::current_path(error), kLowDiskBytes,
                "runs and checkpoints are written here unless --run-dir says otherwise"),
          Space("temporary files", std::filesystem::temp_directory_path(error), kLowSharedMemoryBytes,
                "sockets of a job are made here; TMPDIR chooses another place"),
          Space("shared memory", "/dev/shm", kLowSharedMemoryBytes,
                "MPI and NCCL exchange data through it (in Docker: --shm-size=1g)")};
}

std::string LimitText(rlim_t limit, bool bytes) {
  if (limit == RLIM_INFINITY) return "unlimited";
  return bytes ? std::to_string(limit >> 10) + " KiB" : std::to_string(limit);
}

std::vector<Finding> Limits() {
  rlimit files{};
  rlimit locked{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  ::getrlimit(RLIMIT_MEMLOCK, &locked);
  return {{"open files", LimitText(files.rlim_cur, false) + " (at most " + LimitText(files.rlim_max, false) + ")",
           files.rlim_cur < kFewOpenFiles ? "large tables have many files: ulimit -n " +
                                                std::to_string(std::min(files.rlim_max, rlim_t{65536}))
                                          : ""},
          {"locked memory", LimitText(locked.rlim_cur, true), ""}};
}

std::vector<Finding> Mpi() {
  const std::string mpirun = FindOnPath("mpirun");
  const std::string root = ::geteuid() == 0 ? "--allow-run-as-root " : "";
  return {{"MPI", MpiLibraryVersion() + (mpirun.empty() ? ", no mpirun" : ", " + mpirun),
           mpirun.empty() ? "mpirun is not in PATH: apt-get install openmpi-bin" : ""},
          {"several ranks", "mpirun " + root + "--oversubscribe --bind-to none -np N gatemill train CONFIG", ""}};
}

std::vector<Finding> Devices() {
  const auto library = model::LoadModelLibrary();
  if (!library.ok()) {
    return {{"LibTorch", library.status().message(), "build the target gatemill_model; training needs it"},
            {"GPU", "unknown", "only LibTorch can tell"}};
  }
  const model::DeviceReport report = (*library)->Devices();
  const std::string use = report.cuda_usable ? "used by train.device: auto" : "not used, train.device: auto takes the CPU";
  return {{"LibTorch", (*library)->version(), ""}, {"GPU", use + ": " + report.description, ""}};
}

std::vector<Finding> Examine() {
  std::vector<Finding> all;
  for (const auto& part : {Processor(), Memory(), Devices(), Mpi(), Disk(), Limits()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  all.push_back({"built with", GATEMILL_BUILT_WITH, ""});
  return all;
}

void PrintLines(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    std::printf("%-5s %-16s %s\n", finding.advice.empty() ? "ok" : "warn", finding.name.c_str(), finding.value.c_str());
    if (!finding.advice.empty()) std::printf("%-5s %-16s -> %s\n", "", "", finding.advice.c_str());
  }
}

// "CPU features" as "cpu_features".
std::string JsonName(std::string name) {
  for (char& c : name) c = c == ' ' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

void PrintJson(const std::vector<Finding>& findings) {
  nlohmann::ordered_json report;
  for (const Finding& finding : findings) {
    report[JsonName(finding.name)] = {{"ok", finding.advice.empty()}, {"value", finding.value}, {"advice", finding.advice}};
  }
  PrintJsonLine(report);
}

}  // namespace

RunCommand AddDoctor(CLI::App* app) {
  const auto json = std::make_shared<bool>(false);
  app->add_flag("--json", *json, "one JSON object: {NAME: {ok, value, advice}}");
  return [json] {
    const std::vector<Finding> findings = Examine();
    if (*json) {
      PrintJson(findings);
    } else {
      PrintLines(findings);
    }
    return Ok();
  };
}

}  // namespace gatemill::launcher
