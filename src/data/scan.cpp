#include "scan.hpp"

#include <algorithm>
#include <cstring>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/progress.hpp"
#include "llmft/base/text.hpp"
#include "llmft/data/orca_reader.hpp"

namespace llmft {
namespace {

using nlohmann::json;

constexpr uint64_t kRowsBetweenProgress = 1024;

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

void hash_sources(const Process& process, Sources& sources, StageTimes& times) {
  SharedCounter claims(process);
  json mine = json::array();
  Stopwatch watch;
  for (uint64_t i = claims.next(); i < sources.files.size(); i = claims.next()) {
    mine.push_back({i, hash_file(sources.files[i].path)});
    claims.progress();
  }
  times.read += watch.seconds();
  watch.reset();
  sources.hashes.resize(sources.files.size());
  for (const std::string& text : process.all_gather(mine.dump()))
    for (const json& entry : json::parse(text)) sources.hashes[entry[0].get<size_t>()] = entry[1];
  times.wait += watch.seconds();
}

// Rows other than the first of each text.
std::vector<uint64_t> find_duplicates(const std::vector<uint64_t>& hashes) {
  std::vector<std::pair<uint64_t, uint64_t>> sorted;
  sorted.reserve(hashes.size());
  for (uint64_t row = 0; row < hashes.size(); ++row) sorted.emplace_back(hashes[row], row);
  std::sort(sorted.begin(), sorted.end());
  std::vector<uint64_t> duplicates;
  for (size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i].first == sorted[i - 1].first) duplicates.push_back(sorted[i].second);
  std::sort(duplicates.begin(), duplicates.end());
  return duplicates;
}

std::vector<uint64_t> broadcast_numbers(const Process& process, const std::vector<uint64_t>& values) {
  std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(uint64_t));
  bytes = process.broadcast(bytes);
  std::vector<uint64_t> out(bytes.size() / sizeof(uint64_t));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// Source bytes that stand in the pieces before each, and in all: what the progress bar counts.
std::vector<uint64_t> bytes_before(const Sources& sources) {
  std::vector<uint64_t> file_rows(sources.files.size());
  for (const SourcePiece& p : sources.pieces) file_rows[p.file] += p.rows.value_or(0);
  std::vector<uint64_t> before{0};
  for (const SourcePiece& p : sources.pieces) {
    uint64_t bytes = sources.files[p.file].bytes;
    if (p.rows) {
      bytes = static_cast<uint64_t>(static_cast<double>(bytes) * static_cast<double>(*p.rows) /
                                    static_cast<double>(std::max<uint64_t>(file_rows[p.file], 1)));
    } else {
      bytes = std::min(bytes, p.end) - p.begin;
    }
    before.push_back(before.back() + bytes);
  }
  return before;
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
  hash_sources(process, sources, times);
  return sources;
}

Scan scan_sources(const Process& process, Sources& sources, StageTimes& times) {
  std::vector<uint64_t> before = bytes_before(sources);
  std::vector<uint64_t> mine;  // for each piece scanned here: number, rows, text bytes, and its rows' hashes
  Progress progress("scan", before.back());
  Stopwatch watch;
  auto rate = [&](uint64_t bytes) {
    return human_bytes(static_cast<double>(bytes) / std::max(watch.seconds(), 1e-3)) + "/s";
  };
  Stopwatch waiting;
  {
    SharedCounter claims(process);
    for (uint64_t i = claims.next(); i < sources.pieces.size(); i = claims.next()) {
      const SourcePiece& piece = sources.pieces[i];
      std::unique_ptr<RowReader> reader = open_piece(sources.files[piece.file], piece);
      size_t head = mine.size();
      mine.insert(mine.end(), {i, 0, 0});
      Row row;
      while (reader->next(row)) {
        mine.push_back(row_hash(row));
        mine[head + 2] += row.system_prompt.size() + row.question.size() + row.response.size();
        if (++mine[head + 1] % kRowsBetweenProgress == 0) {
          claims.progress();
          progress.update(before[i], rate(before[i]));
        }
      }
    }
    times.scan += watch.seconds();
    waiting.reset();
  }
  std::vector<uint64_t> all = process.all_gather(std::span<const uint64_t>(mine));
  mine = {};
  progress.finish(rate(before.back()));
  Scan scan;
  std::vector<size_t> at(sources.pieces.size());
  for (size_t i = 0; i < all.size(); i += 3 + all[i + 1]) {
    SourcePiece& piece = sources.pieces[all[i]];
    if (piece.rows && *piece.rows != all[i + 1])
      user_error("{}: has {} rows where its footer says {}; fetch or write the file again",
                 sources.files[piece.file].path.string(), all[i + 1], *piece.rows);
    piece.rows = all[i + 1];
    at[all[i]] = i + 3;
    scan.rows += all[i + 1];
    scan.text_bytes += all[i + 2];
  }
  if (process.is_root()) {
    std::vector<uint64_t> hashes;
    hashes.reserve(scan.rows);
    for (size_t i = 0; i < at.size(); ++i)
      hashes.insert(hashes.end(), all.begin() + static_cast<ptrdiff_t>(at[i]),
                    all.begin() + static_cast<ptrdiff_t>(at[i] + *sources.pieces[i].rows));
    all = {};
    scan.duplicates = find_duplicates(hashes);
  }
  scan.duplicates = broadcast_numbers(process, scan.duplicates);
  times.wait += waiting.seconds();
  return scan;
}

}  // namespace llmft
