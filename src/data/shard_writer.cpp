// Tokens are written while samples come; the small datasets wait for close(). The order of writes is fixed,
// and with it where each chunk lies in the file. Chunks of tokens are summed here and written as they are:
// through the library's filter each would be copied twice and summed at a quarter of the speed.
#include <algorithm>
#include <cstring>

#include "chunked_array.hpp"
#include "hdf5_handle.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {
namespace fs = std::filesystem;
using hdf5::Handle;

namespace {

constexpr size_t kTokenChunk = 32 * 1024;  // 128 KiB: one checksum each, the unit of a first read
constexpr hsize_t kSampleChunk = 4 * 1024;

}  // namespace

struct ShardWriter::Impl {
  Impl(const fs::path& path, ShardOrigin shard_origin)
      : file(path),
        origin(std::move(shard_origin)),
        token_set(file.create_dataset("tokens", H5T_STD_U32LE, kTokenChunk)),
        chunk(kTokenChunk + 1) {}

  hdf5::NewFile file;
  ShardOrigin origin;
  Handle token_set;
  uint64_t tokens = 0;          // all that came
  std::vector<uint32_t> chunk;  // the one being filled, and its sum
  std::vector<uint64_t> offsets{0};
  std::vector<uint32_t> loss_starts;
  std::vector<uint64_t> rows;
  std::vector<uint64_t> hashes;

  // The chunk that ends at `tokens`.
  void write_chunk() {
    file.grow(token_set, tokens);
    chunk[kTokenChunk] =
        fletcher32(reinterpret_cast<const std::byte*>(chunk.data()), kTokenChunk * sizeof(uint32_t));
    uint64_t begin = (tokens - 1) / kTokenChunk * kTokenChunk;
    file.write_chunk(token_set, begin, chunk.data(), chunk.size() * sizeof(uint32_t));
  }
};

uint64_t sample_hash(std::span<const uint32_t> tokens) {
  return hash64({reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()});
}

ShardWriter::ShardWriter(fs::path path, ShardOrigin origin)
    : impl_(std::make_unique<Impl>(path, std::move(origin))) {}
ShardWriter::~ShardWriter() = default;

void ShardWriter::add(std::span<const uint32_t> tokens, uint32_t loss_start, uint64_t row, uint64_t hash) {
  check(loss_start >= 1 && loss_start < tokens.size(), "a sample needs a prompt and a supervised token");
  Impl& s = *impl_;
  while (!tokens.empty()) {
    size_t at = s.tokens % kTokenChunk;
    size_t take = std::min(tokens.size(), kTokenChunk - at);
    std::memcpy(s.chunk.data() + at, tokens.data(), take * sizeof(uint32_t));
    tokens = tokens.subspan(take);
    s.tokens += take;
    if (at + take == kTokenChunk) s.write_chunk();
  }
  s.offsets.push_back(s.tokens);
  s.loss_starts.push_back(loss_start);
  s.rows.push_back(row);
  s.hashes.push_back(hash);
}

void ShardWriter::close(const ShardCounts& counts) {
  Impl& s = *impl_;
  if (size_t rest = s.tokens % kTokenChunk; rest != 0) {
    std::fill(s.chunk.begin() + static_cast<ptrdiff_t>(rest), s.chunk.end(), 0);
    s.write_chunk();
  }
  s.file.finish(s.token_set);
  auto write = [&](const char* name, hid_t file_type, hid_t memory_type, hsize_t size, const void* data) {
    Handle set = s.file.create_dataset(name, file_type, kSampleChunk);
    s.file.append(set, memory_type, 0, size, data);
    s.file.finish(set);
  };
  write("offsets", H5T_STD_U64LE, H5T_NATIVE_UINT64, s.offsets.size(), s.offsets.data());
  write("loss_start", H5T_STD_U32LE, H5T_NATIVE_UINT32, s.loss_starts.size(), s.loss_starts.data());
  write("row", H5T_STD_U64LE, H5T_NATIVE_UINT64, s.rows.size(), s.rows.data());
  write("hash", H5T_STD_U64LE, H5T_NATIVE_UINT64, s.hashes.size(), s.hashes.data());
  s.file.attribute("format", "llmft-shard");
  s.file.attribute("format_version", static_cast<uint64_t>(kShardFormatVersion));
  s.file.attribute("tokenizer_hash", s.origin.tokenizer_hash);
  s.file.attribute("settings", s.origin.settings);
  s.file.attribute("fingerprint", s.origin.fingerprint);
  s.file.attribute("split", s.origin.split);
  s.file.attribute("shard_index", s.origin.index);
  s.file.attribute("shard_count", s.origin.count);
  s.file.attribute("first_row", s.origin.first_row);
  s.file.attribute("source_rows", s.origin.rows);
  for (size_t i = 0; i < counts.drops.size(); ++i)
    s.file.attribute((std::string("dropped_") + kDropReasonNames[i]).c_str(), counts.drops[i]);
  s.file.attribute("other_split", counts.other_split);
  s.file.attribute("truncated", counts.truncated);
  s.file.close();
}

void ShardWriter::commit() {
  impl_->file.commit();
}

std::string shard_name(uint64_t index, uint64_t count) {
  return fmt::format("shard-{:05}-of-{:05}.h5", index, count);
}

}  // namespace llmft
