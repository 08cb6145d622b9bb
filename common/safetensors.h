// The safetensors file format: named tensors of raw numbers behind a JSON header. For dense parameters in checkpoints
// and for `export`, where tables larger than memory are written as they are scanned.
//
// A file: uint64 length of the header | the header, a JSON object padded with spaces to 8 bytes:
//   {"__metadata__": {TEXT: TEXT}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
// | the tensors' bytes, row-major, little-endian, without gaps; offsets count from the first byte after the header.
//
//   GM_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, {{"user.keys", TensorType::kU64, {n}}, ...}));
//   GM_RETURN_IF_ERROR(writer->Append(0, std::span<const std::uint64_t>(keys)));   // as often as it takes
//   GM_RETURN_IF_ERROR(writer->Finish());
//
//   GM_ASSIGN_OR_RETURN(auto reader, SafetensorsReader::Open(path));
//   if (const TensorInfo* info = reader->Find("experts.0.weight")) { ... reader->Read(*info, 0, values); }
//
// Equal calls write equal files: eight-byte tensors come first (so that all are aligned), else in the order given.
// Errors name the path: kInvalidInput for a file that is no safetensors file, kDataLoss for one that is cut short,
// kInternal for a failing disk.
// Thread safety: one thread per object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "common/status.h"

namespace gatemill {

enum class TensorType : std::uint8_t { kF32, kU32, kU64 };

[[nodiscard]] constexpr std::uint64_t BytesPerElement(TensorType type) { return type == TensorType::kU64 ? 8 : 4; }

// The TensorType of a C++ number; only these three have one.
template <typename T>
consteval TensorType TensorTypeOf() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, std::uint32_t> || std::is_same_v<T, std::uint64_t>);
  if constexpr (std::is_same_v<T, float>) return TensorType::kF32;
  return sizeof(T) == sizeof(std::uint32_t) ? TensorType::kU32 : TensorType::kU64;
}

struct TensorInfo {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<std::int64_t> shape;  // [] is a scalar
  std::uint64_t offset_bytes = 0;   // from the first byte after the header; set by the writer and the reader
  std::uint64_t elements = 0;       // product of the shape; set by the writer and the reader
};

class SafetensorsWriter {
 public:
  // Opens `path`.tmp and writes the header. kInvalidInput: a name twice, "__metadata__" as a name, a negative size.
  static Result<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path, std::vector<TensorInfo> tensors,
                                                           const std::map<std::string, std::string>& metadata = {});
  virtual ~SafetensorsWriter() = default;  // without Finish nothing of the file is kept

  // The next elements of tensor number `tensor` (in the order given to Create). Tensors may be filled in turns; each
  // has a buffer of its own. kInternal: another type than announced, or more elements than the shape holds.
  template <typename T>
  Status Append(std::size_t tensor, std::span<const T> values) {
    return AppendBytes(tensor, TensorTypeOf<T>(), std::as_bytes(values));
  }
  // Checks that every tensor is complete, then fsyncs and renames `path`.tmp to `path`.
  virtual Status Finish() = 0;

 protected:
  virtual Status AppendBytes(std::size_t tensor, TensorType type, std::span<const std::byte> bytes) = 0;
};

class SafetensorsReader {
 public:
  // Reads and checks the header: types, shapes, and offsets that cover the rest of the file exactly.
  static Result<std::unique_ptr<SafetensorsReader>> Open(const std::string& path);
  virtual ~SafetensorsReader() = default;

  [[nodiscard]] virtual const std::vector<TensorInfo>& tensors() const = 0;  // in the order of their bytes
  [[nodiscard]] virtual const std::map<std::string, std::string>& metadata() const = 0;
  [[nodiscard]] virtual const TensorInfo* Find(const std::string& name) const = 0;  // null when there is none

  // Elements first to first + out.size() of a tensor of this file. kInvalidInput: another type, or past its end.
  template <typename T>
  Status Read(const TensorInfo& tensor, std::uint64_t first, std::span<T> out) const {
    return ReadBytes(tensor, TensorTypeOf<T>(), first, std::as_writable_bytes(out));
  }

 protected:
  virtual Status ReadBytes(const TensorInfo& tensor, TensorType type, std::uint64_t first,
                           std::span<std::byte> out) const = 0;
};

}  // namespace gatemill
