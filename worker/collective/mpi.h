// The collective over MPI. `communicator` is an MPI_Comm of the workers, passed as the Fortran handle that
// MPI_Comm_c2f gives, so that no MPI header leaks out. MPI must be initialized and must outlive the collective.
#pragma once

#include <memory>

#include "worker/collective/collective.h"

namespace gatemill::collective {

Result<std::unique_ptr<Collective>> NewMpiCollective(int communicator, const Options& options);

}  // namespace gatemill::collective
