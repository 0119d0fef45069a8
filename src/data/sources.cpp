#include "sources.hpp"

#include <algorithm>
#include <optional>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/progress.hpp"
#include "readers.hpp"

namespace llmft {
namespace {

using nlohmann::json;

std::string pack_sources(const Sources& sources) {
  json files = json::array();
  for (const SourceFile& f : sources.files)
    // Names of files need not be UTF-8, which JSON is: as numbers.
    files.push_back({json::binary({f.path.native().begin(), f.path.native().end()}),
                     json::binary({f.name.begin(), f.name.end()}), static_cast<int>(f.format), f.bytes});
  json pieces = json::array();
  for (const SourcePiece& p : sources.pieces)
    pieces.push_back({p.file, p.row_group, p.begin, p.end, p.rows ? json(*p.rows) : json()});
  std::vector<uint8_t> packed = json::to_msgpack({files, pieces});
  return {packed.begin(), packed.end()};
}

Sources unpack_sources(const std::string& text) {
  json root = json::from_msgpack(text);
  auto bytes = [](const json& value) {
    const auto& binary = value.get_binary();
    return std::string(binary.begin(), binary.end());
  };
  Sources sources;
  for (const json& f : root[0])
    sources.files.push_back({bytes(f[0]), bytes(f[1]), static_cast<SourceFormat>(f[2].get<int>()), f[3]});
  for (const json& p : root[1])
    sources.pieces.push_back({p[0], p[1], p[2], p[3],
                              p[4].is_null() ? std::nullopt : std::optional<uint64_t>(p[4].get<uint64_t>())});
  return sources;
}

// One thing to do before the rows can be numbered: a block to hash (and, of plain JSON lines, to count), or a
// compressed file to count.
struct Task {
  size_t file = 0;
  uint64_t begin = 0;
  std::optional<size_t> piece;  // to count
  bool hash = true;
};

std::vector<Task> tasks_of(const Sources& sources) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < sources.pieces.size(); ++i) {
    const SourcePiece& piece = sources.pieces[i];
    SourceFormat format = sources.files[piece.file].format;
    if (format == SourceFormat::jsonl_gzip || format == SourceFormat::jsonl_zstd)
      tasks.push_back({piece.file, 0, i, false});
  }
  // What cannot be shared comes first, the longest ahead.
  std::stable_sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) {
    return sources.files[a.file].bytes > sources.files[b.file].bytes;
  });
  size_t piece = 0;
  for (size_t file = 0; file < sources.files.size(); ++file) {
    while (piece < sources.pieces.size() && sources.pieces[piece].file < file) ++piece;
    bool plain = sources.files[file].format == SourceFormat::jsonl;
    for (uint64_t begin = 0; begin < sources.files[file].bytes; begin += kBlockBytes) {
      tasks.push_back({file, begin, plain ? std::optional(piece) : std::nullopt, true});
      if (plain) ++piece;
    }
  }
  return tasks;
}

// A block of a file with the byte before it, in one buffer.
class BlockReader {
 public:
  std::string_view read(const SourceFile& file, uint64_t begin) {
    MappedFile map(file.path);
    if (map.bytes().size() != file.bytes)
      user_error("{}: has changed its size while it was read; run again", file.path.string());
    uint64_t from = begin == 0 ? 0 : begin - 1;
    buffer_.resize(std::min(begin + kBlockBytes, file.bytes) - from);
    map.read(map.bytes().subspan(from, buffer_.size()), buffer_.data());
    starts_line_ = begin == 0 || buffer_.front() == '\n';
    return std::string_view(buffer_).substr(begin - from);
  }
  bool starts_line() const { return starts_line_; }

 private:
  std::string buffer_;
  bool starts_line_ = true;
};

// The hash of a file of one block is that of its bytes; of more, that of its blocks' hashes as text.
std::string combine(const std::vector<std::string>& blocks) {
  if (blocks.empty()) return hash_bytes("");
  if (blocks.size() == 1) return blocks.front();
  std::string digits;
  for (const std::string& block : blocks) digits += block.substr(block.find(':') + 1);
  std::string hash = hash_bytes(digits);
  return "xxh3-128/16MiB:" + hash.substr(hash.find(':') + 1);
}

void hash_and_count(const Process& process, Sources& sources, StageTimes& times) {
  std::vector<Task> tasks = tasks_of(sources);
  Progress progress("read", tasks.size());
  json mine = json::array();
  Stopwatch watch;
  Stopwatch waiting;
  {
    SharedCounter claims(process);
    BlockReader reader;
    for (uint64_t i = claims.next(); i < tasks.size(); i = claims.next()) {
      const Task& task = tasks[i];
      const SourceFile& file = sources.files[task.file];
      json rows;
      std::string hash;
      if (task.hash) {
        std::string_view block = reader.read(file, task.begin);
        hash = hash_bytes(block);
        if (task.piece) rows = count_rows(file, sources.pieces[*task.piece], block, reader.starts_line());
      } else {
        rows = count_rows(file, sources.pieces[*task.piece], [&] { claims.progress(); });
      }
      mine.push_back({i, hash, rows});
      claims.progress();
      progress.update(i, "");
    }
    times.read += watch.seconds();
    waiting.reset();
  }
  std::vector<std::vector<std::string>> blocks(sources.files.size());
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i].resize((sources.files[i].bytes + kBlockBytes - 1) / kBlockBytes);
  for (const std::string& text : process.all_gather(mine.dump())) {
    for (const json& entry : json::parse(text)) {
      const Task& task = tasks[entry[0].get<size_t>()];
      if (task.hash) blocks[task.file][task.begin / kBlockBytes] = entry[1];
      if (task.piece) sources.pieces[*task.piece].rows = entry[2].get<uint64_t>();
    }
  }
  progress.finish("");
  for (const auto& file : blocks) sources.hashes.push_back(combine(file));
  for (const SourcePiece& piece : sources.pieces) sources.rows += piece.rows.value();
  times.wait += waiting.seconds();
}

}  // namespace

Sources share_sources(const Process& process, const std::string& input, StageTimes& times) {
  std::string packed;
  if (process.is_root()) {
    Sources found;
    found.files = find_sources(input);
    found.pieces = cut_sources(found.files);
    packed = pack_sources(found);
  }
  Sources sources = unpack_sources(process.broadcast(packed));
  hash_and_count(process, sources, times);
  return sources;
}

}  // namespace llmft
