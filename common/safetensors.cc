#include "common/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

namespace gatemill {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kBufferBytes = 1 << 20;           // per tensor
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::array<std::pair<TensorType, const char*>, 3> kTypeNames{
    {{TensorType::kF32, "F32"}, {TensorType::kU32, "U32"}, {TensorType::kU64, "U64"}}};

const char* NameOf(TensorType type) {
  return std::find_if(kTypeNames.begin(), kTypeNames.end(), [&](const auto& entry) { return entry.first == type; })
      ->second;
}

std::optional<TensorType> TypeNamed(const std::string& name) {
  for (const auto& [type, type_name] : kTypeNames) {
    if (name == type_name) return type;
  }
  return std::nullopt;
}

// A file descriptor that closes itself.
class File {
 public:
  File(const std::string& path, int flags) : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] int get() const { return descriptor_; }

 private:
  int descriptor_;
};

Status SystemError(const std::string& path, const std::string& what) {
  return Internal(path + ": cannot " + what + ": " + std::strerror(errno));
}

Status WriteAt(const File& file, const std::string& path, const char* bytes, std::uint64_t count,
               std::uint64_t offset) {
  while (count > 0) {
    const ssize_t written = ::pwrite(file.get(), bytes, count, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return SystemError(path, "write");
    bytes += written;
    count -= static_cast<std::uint64_t>(written);
    offset += static_cast<std::uint64_t>(written);
  }
  return Ok();
}

Status ReadAt(const File& file, const std::string& path, char* bytes, std::uint64_t count, std::uint64_t offset) {
  while (count > 0) {
    const ssize_t got = ::pread(file.get(), bytes, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(path, "read");
    if (got == 0) return DataLoss(path + ": the file ended while it was read; was it replaced or cut?");
    bytes += got;
    count -= static_cast<std::uint64_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
  return Ok();
}

// The product of a shape, or nothing when a size is negative or the tensor's bytes would overflow.
std::optional<std::uint64_t> CountElements(const std::vector<std::int64_t>& shape, TensorType type) {
  std::uint64_t elements = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(elements, static_cast<std::uint64_t>(size), &elements)) return std::nullopt;
  }
  if (elements > std::numeric_limits<std::int64_t>::max() / BytesPerElement(type)) return std::nullopt;
  return elements;
}

// ---- writing -----------------------------------------------------------------------------------------------------

// Sets elements and offsets; returns the order of the tensors' bytes.
Result<std::vector<std::size_t>> LayOut(const std::string& path, std::vector<TensorInfo>* tensors) {
  std::vector<std::size_t> order(tensors->size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return BytesPerElement((*tensors)[a].type) > BytesPerElement((*tensors)[b].type);
  });
  std::set<std::string> names{kMetadataKey};
  std::uint64_t end = 0;
  for (const std::size_t i : order) {
    TensorInfo& tensor = (*tensors)[i];
    if (!names.insert(tensor.name).second) {
      return InvalidInput(path + ": a tensor cannot be named \"" + tensor.name + "\": the name is taken");
    }
    const auto elements = CountElements(tensor.shape, tensor.type);
    if (!elements) return InvalidInput(path + ": tensor \"" + tensor.name + "\" has an impossible shape");
    tensor.elements = *elements;
    tensor.offset_bytes = end;
    end += tensor.elements * BytesPerElement(tensor.type);
  }
  return order;
}

std::string HeaderText(const std::vector<TensorInfo>& tensors, const std::vector<std::size_t>& order,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  for (const std::size_t i : order) {
    const TensorInfo& tensor = tensors[i];
    const std::uint64_t end = tensor.offset_bytes + tensor.elements * BytesPerElement(tensor.type);
    header[tensor.name] = {
        {"dtype", NameOf(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {tensor.offset_bytes, end}}};
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  return text;
}

class FileWriter final : public SafetensorsWriter {
 public:
  FileWriter(const std::string& path, std::vector<TensorInfo> tensors)
      : path_(path),
        temporary_(path + ".tmp"),
        file_(temporary_, O_WRONLY | O_CREAT | O_TRUNC),
        tensors_(std::move(tensors)),
        parts_(tensors_.size()) {}

  ~FileWriter() override {
    if (file_.get() >= 0 && !finished_) ::unlink(temporary_.c_str());
  }

  Status WriteHeader(const std::string& text) {
    if (file_.get() < 0) return SystemError(temporary_, "create");
    const std::uint64_t length = text.size();
    GM_RETURN_IF_ERROR(WriteAt(file_, path_, reinterpret_cast<const char*>(&length), kLengthBytes, 0));
    data_offset_ = kLengthBytes + length;
    return WriteAt(file_, path_, text.data(), length, kLengthBytes);
  }

  Status Finish() override {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      GM_RETURN_IF_ERROR(Flush(i));
      const std::uint64_t written = parts_[i].written_bytes / BytesPerElement(tensors_[i].type);
      if (written != tensors_[i].elements) {
        return Internal(path_ + ": tensor \"" + tensors_[i].name + "\" got " + std::to_string(written) + " of its " +
                        std::to_string(tensors_[i].elements) + " elements");
      }
    }
    if (::fsync(file_.get()) != 0) return SystemError(path_, "write");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError(path_, "create");
    finished_ = true;
    const std::filesystem::path directory = std::filesystem::path(path_).parent_path();
    const File opened(directory.empty() ? "." : directory.string(), O_RDONLY | O_DIRECTORY);
    if (opened.get() < 0 || ::fsync(opened.get()) != 0) return SystemError(directory.string(), "write");
    return Ok();
  }

 protected:
  Status AppendBytes(std::size_t tensor, TensorType type, std::span<const std::byte> bytes) override {
    if (tensor >= tensors_.size()) return Internal(path_ + ": there is no tensor " + std::to_string(tensor));
    const TensorInfo& info = tensors_[tensor];
    Part& part = parts_[tensor];
    const std::uint64_t have = part.written_bytes + part.buffer.size();
    if (type != info.type || have + bytes.size() > info.elements * BytesPerElement(info.type)) {
      return Internal(path_ + ": tensor \"" + info.name + "\" was announced with another type or fewer elements");
    }
    const char* first = reinterpret_cast<const char*>(bytes.data());
    if (part.buffer.size() + bytes.size() > kBufferBytes) GM_RETURN_IF_ERROR(Flush(tensor));
    if (bytes.size() >= kBufferBytes) return WritePart(tensor, first, bytes.size());
    part.buffer.insert(part.buffer.end(), first, first + bytes.size());
    return Ok();
  }

 private:
  struct Part {
    std::vector<char> buffer;         // appended, not yet in the file
    std::uint64_t written_bytes = 0;  // in the file
  };

  Status WritePart(std::size_t tensor, const char* bytes, std::uint64_t count) {
    const std::uint64_t offset = data_offset_ + tensors_[tensor].offset_bytes + parts_[tensor].written_bytes;
    GM_RETURN_IF_ERROR(WriteAt(file_, path_, bytes, count, offset));
    parts_[tensor].written_bytes += count;
    return Ok();
  }

  Status Flush(std::size_t tensor) {
    GM_RETURN_IF_ERROR(WritePart(tensor, parts_[tensor].buffer.data(), parts_[tensor].buffer.size()));
    parts_[tensor].buffer.clear();
    return Ok();
  }

  std::string path_;
  std::string temporary_;
  File file_;
  std::vector<TensorInfo> tensors_;
  std::vector<Part> parts_;  // as tensors_
  std::uint64_t data_offset_ = 0;
  bool finished_ = false;
};

// ---- reading -----------------------------------------------------------------------------------------------------

Status NotSafetensors(const std::string& path, const std::string& why) {
  return InvalidInput(path + ": not a safetensors file: " + why);
}

// The header's JSON object. JSON that names one key twice is refused, for the second would hide the first.
Result<nlohmann::ordered_json> ParseHeader(const std::string& path, const std::string& text) {
  std::set<std::string> names;
  std::string repeated;
  const auto watch = [&](int depth, nlohmann::ordered_json::parse_event_t event, nlohmann::ordered_json& parsed) {
    if (depth == 1 && event == nlohmann::ordered_json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.insert(name).second) repeated = name;
    }
    return true;
  };
  auto header = nlohmann::ordered_json::parse(text, watch, /*allow_exceptions=*/false);
  if (!header.is_object()) return NotSafetensors(path, "its header is no JSON object");
  if (!repeated.empty()) return NotSafetensors(path, "its header names \"" + repeated + "\" twice");
  return header;
}

// A non-negative integer in JSON.
std::optional<std::uint64_t> AsSize(const nlohmann::ordered_json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto size = value.get<std::uint64_t>();
  if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
  return size;
}

Result<TensorInfo> ParseTensor(const std::string& path, const std::string& name, const nlohmann::ordered_json& entry) {
  const auto bad = [&](const std::string& why) { return NotSafetensors(path, "tensor \"" + name + "\" " + why); };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    return bad("lacks dtype, shape or data_offsets");
  }
  const auto& dtype = entry["dtype"];
  const auto type = dtype.is_string() ? TypeNamed(dtype.get<std::string>()) : std::nullopt;
  if (!type) return bad("has dtype " + dtype.dump() + "; F32, U32 and U64 can be read");
  TensorInfo tensor{.name = name, .type = *type, .shape = {}, .offset_bytes = 0, .elements = 0};
  if (!entry["shape"].is_array()) return bad("has a shape that is no list");
  for (const auto& size : entry["shape"]) {
    const auto value = AsSize(size);
    if (!value) return bad("has size " + size.dump() + " in its shape");
    tensor.shape.push_back(static_cast<std::int64_t>(*value));
  }
  const auto elements = CountElements(tensor.shape, *type);
  const auto& offsets = entry["data_offsets"];
  if (!elements) return bad("has an impossible shape");
  if (!offsets.is_array() || offsets.size() != 2) return bad("has data_offsets that are no pair");
  const auto begin = AsSize(offsets[0]);
  const auto end = AsSize(offsets[1]);
  if (!begin || !end || *end < *begin || *end - *begin != *elements * BytesPerElement(*type)) {
    return bad("has data_offsets " + offsets.dump() + " that do not fit its shape");
  }
  tensor.elements = *elements;
  tensor.offset_bytes = *begin;
  return tensor;
}

Result<std::map<std::string, std::string>> ParseMetadata(const std::string& path, const nlohmann::ordered_json& entry) {
  std::map<std::string, std::string> metadata;
  if (!entry.is_object()) return NotSafetensors(path, "its __metadata__ is no object");
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) return NotSafetensors(path, "its __metadata__ \"" + key + "\" is no text");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

class FileReader final : public SafetensorsReader {
 public:
  explicit FileReader(const std::string& path) : path_(path), file_(path, O_RDONLY) {}

  Status Load() {
    struct stat info {};
    if (file_.get() < 0) {
      const std::string reason = std::strerror(errno);
      return InvalidInput(path_ + ": cannot read: " + reason);
    }
    if (::fstat(file_.get(), &info) != 0) return SystemError(path_, "read");
    if (!S_ISREG(info.st_mode)) return NotSafetensors(path_, "it is no regular file");
    const auto size = static_cast<std::uint64_t>(info.st_size);
    std::uint64_t length = 0;
    if (size < kLengthBytes) return NotSafetensors(path_, "it has only " + std::to_string(size) + " bytes");
    GM_RETURN_IF_ERROR(ReadAt(file_, path_, reinterpret_cast<char*>(&length), kLengthBytes, 0));
    if (length > kMaxHeaderBytes || length > size - kLengthBytes) {
      return NotSafetensors(path_, "its header would have " + std::to_string(length) + " bytes");
    }
    std::string text(length, '\0');
    GM_RETURN_IF_ERROR(ReadAt(file_, path_, text.data(), length, kLengthBytes));
    data_offset_ = kLengthBytes + length;
    GM_RETURN_IF_ERROR(ReadHeader(text));
    return CheckCoverage(size - data_offset_);
  }

  [[nodiscard]] const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  [[nodiscard]] const TensorInfo* Find(const std::string& name) const override {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &tensors_[found->second];
  }

 protected:
  Status ReadBytes(const TensorInfo& tensor, TensorType type, std::uint64_t first,
                   std::span<std::byte> out) const override {
    const std::uint64_t width = BytesPerElement(tensor.type);
    if (type != tensor.type) {
      return InvalidInput(path_ + ": tensor \"" + tensor.name + "\" has type " + NameOf(tensor.type) + ", not " +
                          NameOf(type));
    }
    if (first > tensor.elements || out.size() / width > tensor.elements - first) {
      return InvalidInput(path_ + ": tensor \"" + tensor.name + "\" has only " + std::to_string(tensor.elements) +
                          " elements");
    }
    return ReadAt(file_, path_, reinterpret_cast<char*>(out.data()), out.size(),
                  data_offset_ + tensor.offset_bytes + first * width);
  }

 private:
  Status ReadHeader(const std::string& text) {
    GM_ASSIGN_OR_RETURN(const auto header, ParseHeader(path_, text));
    for (const auto& [name, entry] : header.items()) {
      if (name == kMetadataKey) {
        GM_ASSIGN_OR_RETURN(metadata_, ParseMetadata(path_, entry));
      } else {
        GM_ASSIGN_OR_RETURN(auto tensor, ParseTensor(path_, name, entry));
        tensors_.push_back(std::move(tensor));
      }
    }
    std::stable_sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::pair(a.offset_bytes, a.elements) < std::pair(b.offset_bytes, b.elements);
    });
    for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_[tensors_[i].name] = i;
    return Ok();
  }

  // The tensors follow each other without gap or overlap and end where the file does.
  [[nodiscard]] Status CheckCoverage(std::uint64_t data_bytes) const {
    std::uint64_t end = 0;
    for (const TensorInfo& tensor : tensors_) {
      if (tensor.offset_bytes != end) {
        return NotSafetensors(path_, "tensor \"" + tensor.name + "\" does not begin where the one before it ends");
      }
      end += tensor.elements * BytesPerElement(tensor.type);
    }
    if (end > data_bytes) {
      return DataLoss(path_ + ": cut short: " + std::to_string(data_bytes) + " of " + std::to_string(end) +
                      " bytes of tensors are there");
    }
    if (end < data_bytes) return NotSafetensors(path_, "bytes follow its last tensor");
    return Ok();
  }

  std::string path_;
  File file_;
  std::uint64_t data_offset_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<TensorInfo> tensors, const std::map<std::string, std::string>& metadata) {
  GM_ASSIGN_OR_RETURN(const auto order, LayOut(path, &tensors));
  const std::string header = HeaderText(tensors, order, metadata);
  auto writer = std::make_unique<FileWriter>(path, std::move(tensors));
  GM_RETURN_IF_ERROR(writer->WriteHeader(header));
  return std::unique_ptr<SafetensorsWriter>(std::move(writer));
}

Result<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(const std::string& path) {
  auto reader = std::make_unique<FileReader>(path);
  GM_RETURN_IF_ERROR(reader->Load());
  return std::unique_ptr<SafetensorsReader>(std::move(reader));
}

}  // namespace gatemill
