// Tokens are appended while samples come; the three small datasets wait for close(). The order of writes is
// fixed, and with it where each chunk lies in the file.
#include <algorithm>

#include <unistd.h>

#include "hdf5_handle.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {
namespace fs = std::filesystem;
using hdf5::Handle;

namespace {

constexpr hsize_t kTokenChunk = 32 * 1024;  // 128 KiB: one checksum each, the unit of a first read
constexpr hsize_t kSampleChunk = 4 * 1024;
constexpr size_t kTokenBuffer = 32 * kTokenChunk;

}  // namespace

struct ShardWriter::Impl {
  fs::path path;
  fs::path temporary;
  ShardOrigin origin;
  Handle file;
  Handle token_set;
  hsize_t tokens_written = 0;
  std::vector<uint32_t> buffer;
  std::vector<uint64_t> offsets{0};
  std::vector<uint32_t> loss_starts;
  std::vector<uint64_t> rows;
  bool committed = false;

  [[noreturn]] void failed() {
    std::string reason = hdf5::last_error();
    const char* advice =
        reason.find("space") != std::string::npos || reason.find("quota") != std::string::npos
            ? "free space or choose another output folder"
            : "check the file system and the output folder's permissions";
    user_error("{}: cannot write the shard ({}); {}", path.string(), reason, advice);
  }
  void need(bool ok) {
    if (!ok) failed();
  }

  void create() {
    hdf5::initialise();
    temporary = temporary_name(path);
    Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18);
    // One writer a file and a rename at the end: locks add nothing, and some shared file systems refuse them.
    H5Pset_file_locking(access.get(), false, true);
    Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    H5Pset_obj_track_times(creation.get(), false);
    file = Handle(H5Fcreate(temporary.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
    need(file.valid());
    token_set = create_dataset("tokens", H5T_STD_U32LE, 0, kTokenChunk);
  }

  Handle create_dataset(const char* name, hid_t type, hsize_t size, hsize_t chunk) {
    hsize_t unlimited = H5S_UNLIMITED;
    Handle space(H5Screate_simple(1, &size, &unlimited), H5Sclose);
    Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_chunk(properties.get(), 1, &chunk);
    H5Pset_fletcher32(properties.get());
    H5Pset_obj_track_times(properties.get(), false);
    Handle set(H5Dcreate2(file.get(), name, type, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
               H5Dclose);
    need(set.valid());
    return set;
  }

  void append(Handle& set, hid_t memory_type, hsize_t at, hsize_t count, const void* data) {
    if (count == 0) return;
    hsize_t size = at + count;
    need(H5Dset_extent(set.get(), &size) >= 0);
    Handle file_space(H5Dget_space(set.get()), H5Sclose);
    H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, &at, nullptr, &count, nullptr);
    Handle memory_space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    need(H5Dwrite(set.get(), memory_type, memory_space.get(), file_space.get(), H5P_DEFAULT, data) >= 0);
  }

  void flush_tokens() {
    append(token_set, H5T_NATIVE_UINT32, tokens_written, buffer.size(), buffer.data());
    tokens_written += buffer.size();
    buffer.clear();
  }

  void attribute(const char* name, uint64_t value) {
    Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    Handle set(H5Acreate2(file.get(), name, H5T_STD_U64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    need(set.valid() && H5Awrite(set.get(), H5T_NATIVE_UINT64, &value) >= 0);
  }
  void attribute(const char* name, const std::string& value) {
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), std::max<size_t>(value.size(), 1));
    H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    Handle set(H5Acreate2(file.get(), name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    need(set.valid() && H5Awrite(set.get(), type.get(), value.c_str()) >= 0);
  }
};

ShardWriter::ShardWriter(fs::path path, ShardOrigin origin) : impl_(std::make_unique<Impl>()) {
  impl_->path = std::move(path);
  impl_->origin = std::move(origin);
  impl_->buffer.reserve(kTokenBuffer);
  impl_->create();
}

ShardWriter::~ShardWriter() {
  if (impl_->committed) return;
  impl_->token_set.reset();
  impl_->file.reset();
  ::unlink(impl_->temporary.c_str());
}

void ShardWriter::add(std::span<const uint32_t> tokens, uint32_t loss_start, uint64_t row) {
  check(loss_start >= 1 && loss_start < tokens.size(), "a sample needs a prompt and a supervised token");
  Impl& s = *impl_;
  while (!tokens.empty()) {
    size_t take = std::min(tokens.size(), kTokenBuffer - s.buffer.size());
    s.buffer.insert(s.buffer.end(), tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(take));
    tokens = tokens.subspan(take);
    if (s.buffer.size() == kTokenBuffer) s.flush_tokens();
  }
  s.offsets.push_back(s.tokens_written + s.buffer.size());
  s.loss_starts.push_back(loss_start);
  s.rows.push_back(row);
}

void ShardWriter::close(const ShardCounts& counts) {
  Impl& s = *impl_;
  s.flush_tokens();
  s.need(s.token_set.reset());
  auto write = [&](const char* name, hid_t file_type, hid_t memory_type, hsize_t size, const void* data) {
    Handle set = s.create_dataset(name, file_type, 0, kSampleChunk);
    s.append(set, memory_type, 0, size, data);
    s.need(set.reset());
  };
  write("offsets", H5T_STD_U64LE, H5T_NATIVE_UINT64, s.offsets.size(), s.offsets.data());
  write("loss_start", H5T_STD_U32LE, H5T_NATIVE_UINT32, s.loss_starts.size(), s.loss_starts.data());
  write("row", H5T_STD_U64LE, H5T_NATIVE_UINT64, s.rows.size(), s.rows.data());
  s.attribute("format", "llmft-shard");
  s.attribute("format_version", static_cast<uint64_t>(kShardFormatVersion));
  s.attribute("tokenizer_hash", s.origin.tokenizer_hash);
  s.attribute("settings", s.origin.settings);
  s.attribute("fingerprint", s.origin.fingerprint);
  s.attribute("split", s.origin.split);
  s.attribute("shard_index", s.origin.index);
  s.attribute("shard_count", s.origin.count);
  s.attribute("first_row", s.origin.first_row);
  s.attribute("source_rows", s.origin.rows);
  for (size_t i = 0; i < counts.drops.size(); ++i)
    s.attribute((std::string("dropped_") + kDropReasonNames[i]).c_str(), counts.drops[i]);
  s.attribute("other_split", counts.other_split);
  s.attribute("truncated", counts.truncated);
  s.need(s.file.reset());
}

void ShardWriter::commit() {
  commit_file(impl_->temporary, impl_->path);
  impl_->committed = true;
}

std::string shard_name(uint64_t index, uint64_t count) {
  return fmt::format("shard-{:05}-of-{:05}.h5", index, count);
}

}  // namespace llmft
