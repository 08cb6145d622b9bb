// What Open MPI leaves on this host when its mpirun is killed: the directory of its session, TEMPORARY/ompi.HOST.UID/pid.PID, and
// its ranks' shared memory, vader_segment.HOST.UID.JOB.RANK, where the session's contact.txt begins with JOB. Those are
// the names of Open MPI 4; of another version nothing is found, and nothing removed.
// Thread safety: free functions.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/status.h"

namespace gatemill::launcher {

// Where Open MPI has its sessions: TMPDIR, TEMP or TMP, else /tmp.
std::string SessionsDir();

// Once the mpirun with this process id and all its ranks on this host have ended; what it has removed itself is ok.
// `shared_memory`: where the segments are.
Status RemoveMpirunFiles(pid_t mpirun, const std::string& sessions_dir, const std::string& shared_memory = "/dev/shm");

}  // namespace gatemill::launcher
